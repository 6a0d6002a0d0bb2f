// Matrix products x Wᵀ of many weights and few rows, with what follows them.
//
// The weights of a rollout's step do not fit into the cache, and its rows are too few to hide
// reading them: so while one panel of weights is multiplied, the next one is asked for, a line at a
// time.

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

// x (rows, depth); weight (panels, depth, PANEL); out and other (rows, width).
struct Product {
  const float *x, *weight, *bias, *other;
  int64_t depth, width;
  bool gated;
  float* out;

  void panel(int64_t p, int64_t begin, int64_t end) const {
    const int64_t rows = end - begin, blocks = (rows + ROWS - 1) / ROWS;
    const int64_t every = std::min(blocks, SLOWEST);
    const float* columns = weight + p * depth * PANEL;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t from = b * rows / blocks, to = (b + 1) * rows / blocks;
      const float* next = columns + (depth + b % every * (depth / every)) * PANEL;
      unrolled<ROWS>(to - from, [&](auto n) { block<n()>(begin + from, p, columns, next, every); });
    }
  }

 private:
  template <int N>
  void block(int64_t row, int64_t p, const float* columns, const float* next,
             int64_t every) const {
    const float* from = x + row * depth;
    Wide left[N] = {}, right[N] = {};
    for (int64_t k = 0; k < depth; next += PANEL) {
      for (int64_t i = 0; i < PANEL; i += LINE) __builtin_prefetch(next + i);
      for (const int64_t end = std::min(depth, k + every); k < end; ++k) {
        const Wide l = load<Wide>(columns + k * PANEL), r = load<Wide>(columns + k * PANEL + WIDE);
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i) {
          left[i] += from[i * depth + k] * l;
          right[i] += from[i * depth + k] * r;
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) finish(row + i, p, left[i], right[i]);
  }

  void finish(int64_t row, int64_t p, Wide left, Wide right) const {
    if (gated) return store(out + row * width + p * WIDE, silu(left) * right);
    const int64_t column = p * PANEL, place = row * width + column;
    if (bias) left += load<Wide>(bias + column), right += load<Wide>(bias + column + WIDE);
    if (other) left += load<Wide>(other + place), right += load<Wide>(other + place + WIDE);
    store(out + place, left);
    store(out + place + WIDE, right);
  }
};

}  // namespace

extern "C" {

// The columns of a panel: weights (out, in) come as (out / panel, in, panel), a gate's with a vector
// of the first matrix's columns before one of the second's.
int64_t panel() { return PANEL; }

// x Wᵀ, plus `bias` (width) and `other` (rows, width) where they are given: x (rows, depth) → out
// (rows, width). Of a gate silu(x W1ᵀ) · (x W3ᵀ).
void product(const float* x, const float* weight, const float* bias, const float* other,
             int64_t rows, int64_t depth, int64_t width, int64_t gated, float* out) {
  const Product all{x, weight, bias, other, depth, width, gated != 0, out};
  const int64_t panels = width / (gated ? WIDE : PANEL);
#pragma omp parallel
  for (int64_t begin = 0; begin < rows; begin += SOME) {
#pragma omp for schedule(static) nowait
    for (int64_t p = 0; p < panels; ++p) all.panel(p, begin, std::min(rows, begin + SOME));
  }
}

}  // extern "C"
