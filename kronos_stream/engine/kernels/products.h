// Matrix products x Wᵀ of many weights and few rows, with what follows them.
//
// The weights of a rollout's step do not fit into the cache, and its rows are too few to hide
// reading them: so while one panel of weights is multiplied, the next one is asked for, a line at a
// time.

#pragma once

#include <vector>

#include "numbers.h"
#include "vectors.h"

namespace {

constexpr int64_t ROWS = SUMS / 2;   // rows whose sums are in registers together
constexpr int64_t PANEL = 2 * WIDE;  // columns that are summed together
constexpr int64_t SOME = 60;         // rows that stay in the second cache while all panels pass
constexpr int64_t SLOWEST = 8;       // a line of the next panel is asked for at least so often

inline Wide silu(Wide x) {
  const Wide e = exponential(x < 0 ? x : -x);
  return x * ((x < 0 ? e : Wide{} + 1) / (1 + e));
}

// A matrix (width, depth) of floats, or of pairs where it is `paired`, in panels (panels, depth,
// PANEL), and its bias (width) or none. A gate silu(x W1ᵀ) · (x W3ᵀ) has a vector of the first
// matrix's columns before one of the second's.
struct Weights {
  const float *panels, *bias;
  int64_t depth, width, gated, paired;
};

// Of some rows x (rows, depth) of a kind of numbers.
template <typename Kind>
class Product {
 public:
  Product(const Weights& weights, const float* x, const float* other, int64_t rows, float* out)
      : w_(weights), x_(x), other_(other), rows_(rows), out_(out) {}

  void panel(int64_t p) const {
    const int64_t blocks = (rows_ + ROWS - 1) / ROWS, every = std::min(blocks, SLOWEST);
    const float* columns = w_.panels + p * w_.depth * PANEL;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t from = b * rows_ / blocks, to = (b + 1) * rows_ / blocks;
      const float* next = columns + (w_.depth + b % every * (w_.depth / every)) * PANEL;
      unrolled<ROWS>(to - from, [&](auto n) { block<n()>(from, p, columns, next, every); });
    }
  }

 private:
  template <int N>
  void block(int64_t row, int64_t p, const float* columns, const float* next,
             int64_t every) const {
    const int64_t depth = w_.depth;
    const float* from = x_ + row * depth;
    Wide left[N] = {}, right[N] = {};
    for (int64_t k = 0; k < depth; next += PANEL) {
      for (int64_t i = 0; i < PANEL; i += LINE) __builtin_prefetch(next + i);
      for (const int64_t end = std::min(depth, k + every); k < end; ++k) {
        const Wide l = load<Wide>(columns + k * PANEL), r = load<Wide>(columns + k * PANEL + WIDE);
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i) {
          const Wide x = spread<Wide>(from[i * depth + k]);
          left[i] = Kind::add(left[i], x, l);
          right[i] = Kind::add(right[i], x, r);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) finish(row + i, p, left[i], right[i]);
  }

  void finish(int64_t row, int64_t p, Wide left, Wide right) const {
    if (w_.gated) return store(out_ + row * w_.width + p * WIDE, silu(left) * right);
    const int64_t column = p * PANEL, place = row * w_.width + column;
    if (w_.bias) left += load<Wide>(w_.bias + column), right += load<Wide>(w_.bias + column + WIDE);
    if (other_) left += load<Wide>(other_ + place), right += load<Wide>(other_ + place + WIDE);
    store(out_ + place, left);
    store(out_ + place + WIDE, right);
  }

  const Weights& w_;
  const float *x_, *other_;
  const int64_t rows_;
  float* out_;
};

template <typename Kind>
void multiply_of(const Weights& w, const float* x, const float* other, int64_t rows, float* out) {
  thread_local std::vector<float> scratch;
  const int64_t inputs = w.depth * Kind::EACH, panels = w.width / (w.gated ? WIDE : PANEL);
  for (int64_t begin = 0; begin < rows; begin += SOME) {
    const int64_t count = std::min(SOME, rows - begin), place = begin * w.width;
    const float* some = x + begin * inputs;
    if (Kind::EACH > 1) {  // each thread for itself: it is little work
      scratch.resize(std::max<size_t>(scratch.size(), SOME * w.depth));
      Kind::put(some, count * inputs, scratch.data());
      some = scratch.data();
    }
    const Product<Kind> product(w, some, other ? other + place : nullptr, count, out + place);
#pragma omp for schedule(static) nowait
    for (int64_t p = 0; p < panels; ++p) product.panel(p);
  }
#pragma omp barrier
}

// x Wᵀ plus bias and `other` (rows, width), where they are given: x (rows, inputs) → out (rows,
// width), which may be `other`. Each thread does its share of the panels.
void multiply(const Weights& weights, const float* x, const float* other, int64_t rows,
              float* out) {
  of_kind(weights.paired, [&](auto kind) {
    multiply_of<decltype(kind)>(weights, x, other, rows, out);
  });
}

}  // namespace
