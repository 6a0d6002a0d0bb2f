// The steps that work on a row by itself. Each thread does its share of the rows.

#pragma once

#include "vectors.h"

namespace {

// x / rms(x) · weight: x (rows, width).
void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
              float* out) {
#pragma omp for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = x + r * width;
    Vec squares{};
    for (int64_t d = 0; d < width; d += W) squares += load(from + d) * load(from + d);
    const float scale = 1 / std::sqrt(sum(squares) / width + eps);
    for (int64_t d = 0; d < width; d += W)
      store(out + r * width + d, load(from + d) * scale * load(weight + d));
  }
}

// The half-rotation in place of the first `heads` of x (rows, stride): cosines are (rows, width),
// the second half of a row the same as the first, and sines (rows, width / 2).
void rotate(float* x, const float* cosines, const float* sines, int64_t rows, int64_t heads,
            int64_t width, int64_t stride) {
  const int64_t half = width / 2;
#pragma omp for schedule(static)
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t h = 0; h < heads; ++h) {
      float *left = x + r * stride + h * width, *right = left + half;
      for (int64_t d = 0; d < half; ++d) {
        const float c = cosines[r * width + d], s = sines[r * half + d], l = left[d];
        left[d] = l * c - right[d] * s;
        right[d] = right[d] * c + l * s;
      }
    }
}

}  // namespace
