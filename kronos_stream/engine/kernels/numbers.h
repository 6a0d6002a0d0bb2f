// What products and attention multiply: floats, or pairs of bfloat16, which pay where the processor
// multiplies them. A pair is two values that are summed over one after the other, and as large as a
// float: it is moved as one.

#pragma once

#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512VL__)
#include <immintrin.h>
#define PAIRS_PAY
#endif

namespace {

struct Floats {
  static constexpr int64_t EACH = 1;  // values of a number

  // sum + x · w in every place.
  template <typename V>
  static V add(V sum, V x, V w) {
    return sum + x * w;
  }

  // `count` values, a multiple of W, as numbers.
  static void put(const float* values, int64_t count, float* to) {
    std::copy_n(values, count, to);
  }

  // The W values of some numbers.
  static Vec values(const float* numbers) { return load(numbers); }

  // EACH rows of floats, of which those below each other become a number.
  static Wide column(const Wide* rows) { return rows[0]; }

  // The same of the values from the i-th on of a row of numbers and the next row.
  template <typename V>
  static V column(const float* row, const float*, int64_t i) {
    return load<V>(row + i);
  }
};

// Rounded to the nearest, ties to even.
struct Pairs {
  static constexpr int64_t EACH = 2;

  template <typename V>
  static V add(V sum, V x, V w) {
#ifdef PAIRS_PAY
    if constexpr (sizeof(V) == sizeof(__m512))
      return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
    else
      return (V)_mm256_dpbf16_ps((__m256)sum, (__m256bh)x, (__m256bh)w);
#else
    const Ints<V> one = as<Ints<V>>(x), other = as<Ints<V>>(w);
    sum += as<V>(one << 16) * as<V>(other << 16);
    return sum + as<V>(one >> 16 << 16) * as<V>(other >> 16 << 16);
#endif
  }

  static void put(const float* values, int64_t count, float* to) {
    for (int64_t i = 0; i < count; i += W) {
#ifdef PAIRS_PAY
      const __m128bh halves = _mm256_cvtneps_pbh((__m256)load(values + i));
#else
      const Ints<Vec> bits = as<Ints<Vec>>(load(values + i));
      const Halves<Vec> halves =
          __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Halves<Vec>);
#endif
      std::memcpy(to + i / EACH, &halves, sizeof halves);
    }
  }

  static Vec values(const float* numbers) { return as<Vec>(widened<Vec>(numbers, 0) << 16); }

  static Wide column(const Wide* rows) {
    float numbers[WIDE];
    put(reinterpret_cast<const float*>(rows), EACH * WIDE, numbers);
    return column<Wide>(numbers, numbers + WIDE / EACH, 0);
  }

  template <typename V>
  static V column(const float* row, const float* next, int64_t i) {
    return as<V>(widened<V>(row, i) | widened<V>(next, i) << 16);
  }

 private:
  template <typename V>
  struct OfHalves {
    typedef uint16_t Type __attribute__((vector_size(sizeof(V) / 2)));
  };

  template <typename V>
  using Halves = typename OfHalves<V>::Type;

  // The bits of values from the i-th on, each in the low half of its place.
  template <typename V>
  static Ints<V> widened(const float* numbers, int64_t i) {
    Halves<V> halves;
    std::memcpy(&halves, reinterpret_cast<const uint16_t*>(numbers) + i, sizeof halves);
#ifdef PAIRS_PAY  // what the compiler makes of the other is longer
    if constexpr (sizeof(V) == sizeof(__m512))
      return (Ints<V>)_mm512_cvtepu16_epi32(as<__m256i>(halves));
#endif
    return __builtin_convertvector(halves, Ints<V>);
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
