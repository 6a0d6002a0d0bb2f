// The steps that work on a row by itself.

#include "vectors.h"

extern "C" {

// x / rms(x) · weight: x (rows, width).
void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
              float* out) {
#pragma omp parallel for if (rows * width > SERIAL)
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
#pragma omp parallel for if (rows * heads * width > SERIAL)
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

// Keys and values (rows, heads, width), whose rows lie `stride` apart, to one step of each row's own
// (rows, heads, steps, width).
void append(const float* keys, const float* values, float* own_keys, float* own_values,
            int64_t rows, int64_t heads, int64_t width, int64_t stride, int64_t steps,
            int64_t step) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t from = r * stride + h * width, to = ((r * heads + h) * steps + step) * width;
      std::copy_n(keys + from, width, own_keys + to);
      std::copy_n(values + from, width, own_values + to);
    }
}

}  // extern "C"
