// What products and attention read: floats, or pairs of bfloat16, which pay where the processor
// multiplies them. A pair is two values that follow each other, and as large as a float: it is moved
// as one.

#pragma once

#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512VL__)
#include <immintrin.h>
#define PAIRS_PAY
#endif

namespace {

struct Floats {
  static constexpr int64_t EACH = 1;  // values of a number

  // sum + x · w, the same x in every place.
  static Wide add(Wide sum, float x, Wide w) { return sum + x * w; }

  // A vector of values from the i-th on.
  template <typename V>
  static V values(const float* from, int64_t i) {
    return load<V>(from + i);
  }

  // `count` values, a multiple of W, as numbers.
  static void put(const float* values, int64_t count, float* to) {
    std::copy_n(values, count, to);
  }
};

struct Pairs {
  static constexpr int64_t EACH = 2;

  static Wide add(Wide sum, float x, Wide w) {
#ifdef PAIRS_PAY
    return (Wide)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(x), (__m512bh)w);
#else
    const Ints<Wide> one = Ints<Wide>{} + as<int32_t>(x), other = as<Ints<Wide>>(w);
    sum += as<Wide>(one << 16) * as<Wide>(other << 16);
    return sum + as<Wide>(one >> 16 << 16) * as<Wide>(other >> 16 << 16);
#endif
  }

  template <typename V>
  static V values(const float* from, int64_t i) {
    typedef uint16_t Halves __attribute__((vector_size(sizeof(V) / 2)));
    Halves halves;
    std::memcpy(&halves, reinterpret_cast<const uint16_t*>(from) + i, sizeof halves);
    return as<V>(__builtin_convertvector(halves, Ints<V>) << 16);
  }

  // Rounded to the nearest, ties to even.
  static void put(const float* values, int64_t count, float* to) {
    for (int64_t i = 0; i < count; i += W) {
#ifdef PAIRS_PAY
      const __m128bh halves = _mm256_cvtneps_pbh((__m256)load(values + i));
#else
      typedef uint16_t Halves __attribute__((vector_size(2 * W)));
      const Ints<Vec> bits = as<Ints<Vec>>(load(values + i));
      const Halves halves =
          __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Halves);
#endif
      std::memcpy(to + i / EACH, &halves, sizeof halves);
    }
  }
};

// Calls `what` with the kind of numbers.
template <typename What>
void of_kind(bool paired, What&& what) {
  if (paired)
    what(Pairs());
  else
    what(Floats());
}

}  // namespace
