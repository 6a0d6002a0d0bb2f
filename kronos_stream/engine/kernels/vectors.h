// What the kernels share. Every row, and of attention every head of a row, is computed by itself in
// one order of additions: its bits depend on nothing beside it, nor on the number of threads. Arrays
// are row-major and dense, except where a stride (in floats) is named.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

#ifdef __AVX512F__
constexpr int64_t WIDE = 16, SUMS = 24;  // floats of a vector, and how many sums registers hold
#else
constexpr int64_t WIDE = 8, SUMS = 12;
#endif
constexpr int64_t W = 8;             // floats of a short vector, which divides the widths of heads
constexpr int64_t LINE = 16;         // floats of a line of the processor's cache
constexpr int64_t SERIAL = 1 << 15;  // floats up to which waking other threads costs more

typedef float Vec __attribute__((vector_size(4 * W)));
typedef float Wide __attribute__((vector_size(4 * WIDE)));

template <typename V>
using Ints = decltype(V{} < V{});  // as wide as V

// The bits of one thing as another.
template <typename To, typename From>
inline To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <typename V = Vec>
inline V load(const float* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename V>
inline void store(float* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// x in every place.
template <typename V>
inline V spread(float x) {
  return as<V>(Ints<V>{} + as<int32_t>(x));
}

inline float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < W; ++i) total += v[i];
  return total;
}

// e^x of x ≤ 0: 2^n · e^r with |r| ≤ ln 2 / 2, e^r by its series to the sixth power. Below -87
// it is 0.
template <typename V>
inline V exponential(V all) {
  const V x = all < -87.0f ? V{} - 87.0f : all;
  const float rounder = 12582912.0f;  // 1.5 · 2^23: adding it leaves no fraction
  const V n = (x * 1.44269504f + rounder) - rounder;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = V{} + 1.0f / 720;
  for (float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + term;
  const V power = as<V>((__builtin_convertvector(n, Ints<V>) + 127) << 23);
  return all < -87.0f ? V{} : p * power;
}

// Calls `what` with N = `count` (1 to `Most`) as a constant.
template <int Most, typename What>
void unrolled(int64_t count, What&& what) {
  if constexpr (Most > 1)
    if (count < Most) return unrolled<Most - 1>(count, what);
  what(std::integral_constant<int, Most>());
}

}  // namespace
