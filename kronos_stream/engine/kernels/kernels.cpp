// The engine's products and small steps on a CPU, for rows of float32; native.py compiles and calls
// them. The same arithmetic in torch is in networks.py, attention.py and linear.py.

#include "attention.h"
#include "products.h"
#include "rows.h"

namespace {

// A block of a network, whose rows are as wide as its heads are together.
struct Layer {
  const float *norm1, *norm2;
  float eps;
  Weights qkv, out, gate, w2;
  Heads heads;
};

}  // namespace

extern "C" {

// The columns of a panel: weights (out, in) come as (out / panel, in, panel).
int64_t panel() { return PANEL; }

// Whether weights, keys and values had better be pairs of bfloat16. Weights then come as (out /
// panel, in / 2, panel, 2).
int64_t pairs_pay() {
#ifdef PAIRS_PAY
  return true;
#else
  return false;
#endif
}

void run_product(const Weights* weights, const float* x, const float* other, int64_t rows,
                 float* out) {
#pragma omp parallel
  multiply(*weights, x, other, rows, out);
}

void run_rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
                  float* out) {
#pragma omp parallel if (rows * width > SERIAL)
  rms_norm(x, weight, eps, rows, width, out);
}

void run_rotate(float* x, const float* cosines, const float* sines, int64_t rows, int64_t heads,
                int64_t width, int64_t stride) {
#pragma omp parallel if (rows * heads * width > SERIAL)
  rotate(x, cosines, sines, rows, heads, width, stride);
}

void run_append(const float* keys, const float* values, const Memory* memory, const Heads* heads,
                int64_t rows, int64_t stride, int64_t step) {
#pragma omp parallel if (rows * heads->kv * heads->width > SERIAL)
  append(keys, values, *memory, *heads, rows, stride, step);
}

void run_attend(const float* q, int64_t stride, const Memory* memory, const Heads* heads,
                int64_t rows, int64_t seen, float* out) {
#pragma omp parallel
  attend(q, stride, *memory, *heads, rows, seen, out);
}

// x (rows, width) through a layer, in place; `step` is where keys and values of its own begin.
void run_layer(const Layer* l, const Memory* memory, const float* cosines, const float* sines,
               int64_t rows, int64_t step, float* x) {
  const Heads& h = l->heads;
  const int64_t width = h.queries * h.width, stride = l->qkv.width;
  // Kept from call to call: the system would have to clear its pages each time.
  thread_local std::vector<float> scratch;
  scratch.resize(std::max<size_t>(scratch.size(), rows * (width + stride + l->gate.width)));
  float *normed = scratch.data(), *qkv = normed + rows * width, *wide = qkv + rows * stride;
#pragma omp parallel
  {
    rms_norm(x, l->norm1, l->eps, rows, width, normed);
    multiply(l->qkv, normed, nullptr, rows, qkv);
    rotate(qkv, cosines, sines, rows, h.queries + h.kv, h.width, stride);
    const float* keys = qkv + h.queries * h.width;
    append(keys, keys + h.kv * h.width, *memory, h, rows, stride, step);
    attend(qkv, stride, *memory, h, rows, step + 1, normed);
    multiply(l->out, normed, x, rows, x);
    rms_norm(x, l->norm2, l->eps, rows, width, normed);
    multiply(l->gate, normed, nullptr, rows, wide);
    multiply(l->w2, wide, x, rows, x);
  }
}

}  // extern "C"
