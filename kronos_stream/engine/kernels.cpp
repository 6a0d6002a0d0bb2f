// The engine's small steps between its matrix products, for float32 on a CPU; native.py compiles
// and calls them. The same arithmetic in torch is in networks.py and attention.py.
//
// Every row, and of attention every head of a row, is computed by itself in one order of additions:
// its bits depend on nothing beside it, nor on the number of threads. Arrays are row-major and
// dense, except where a stride (in floats) is named.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t W = 8;             // floats of a vector; widths of heads are multiples of it
constexpr int64_t LANES = 16;        // queries that share a pass over the keys, one in each lane
constexpr int64_t KEYS = 6;          // keys whose scores are summed in registers together
constexpr int64_t AHEAD = 48;        // keys between the one that is read and the one asked for
constexpr int64_t BLOCK = 64;        // values that stay in the first cache while a tile passes
constexpr int64_t SERIAL = 1 << 15;  // floats up to which waking other threads costs more

typedef float Vec __attribute__((vector_size(4 * W)));
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

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

// Asks for `count` floats that will be read soon.
inline void expect(const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(from + i);
}

inline float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < W; ++i) total += v[i];
  return total;
}

// e^x of x ≤ 0: 2^n · e^r with |r| ≤ ln 2 / 2, e^r by its series to the sixth power. What lies
// below -87 is as good as 0.
inline Lanes exponential(Lanes x) {
  x = x < -87.0f ? Lanes{} - 87.0f : x;
  const float rounder = 12582912.0f;  // 1.5 · 2^23: adding it leaves no fraction
  const Lanes n = (x * 1.44269504f + rounder) - rounder;
  const Lanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Lanes p = Lanes{} + 1.0f / 720;
  for (float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + term;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  Lanes scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

// Scores (N, LANES) of N keys (N, width) and queries (width, LANES).
template <int N>
void score(const float* keys, const float* queries, int64_t width, float* scores) {
  Lanes sums[N] = {};
  for (int64_t d = 0; d < width; ++d) {
    const Lanes q = load<Lanes>(queries + d * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) sums[i] += keys[i * width + d] * q;
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(scores + i * LANES, sums[i]);
}

// Adds the values (count, width) to N rows of `out` (N, width), by their weights (count, LANES).
template <int N>
void gather(const float* weights, const float* values, int64_t count, int64_t width, float* out) {
  for (int64_t d = 0; d < width; d += W) {
    Vec sums[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) sums[i] = load(out + i * width + d);
    for (int64_t j = 0; j < count; ++j) {
      const Vec v = load(values + j * width + d);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) sums[i] += weights[j * LANES + i] * v;
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) store(out + i * width + d, sums[i]);
  }
}

// Calls `what` with N = `count` (1 to `Most`) as a constant.
template <int Most, typename What>
void unrolled(int64_t count, What&& what) {
  if constexpr (Most > 1)
    if (count < Most) return unrolled<Most - 1>(count, what);
  what(std::integral_constant<int, Most>());
}

struct Shape {
  int64_t paths, heads, kv_heads, width, stride, length, steps, seen;

  int64_t each() const { return heads / kv_heads; }
  int64_t queries() const { return paths * each(); }
  int64_t tiles() const { return (queries() + LANES - 1) / LANES; }
};

// At most LANES of the queries that look at one key/value head of one lane. Scores and weights are
// (keys, LANES): the prefix's, then those of each query's own.
class Tile {
 public:
  Tile(const Shape& s, int64_t begin, int64_t end, int64_t prefix)
      : s_(s), begin_(begin), size_(end - begin), prefix_(prefix) {
    queries_.assign(s.width * LANES, 0.0f);
    scores_.assign((prefix + s.seen) * LANES, 0.0f);
    out_.assign(size_ * s.width, 0.0f);
  }

  // q (paths, stride) and `to` (paths, heads, width) from the first head of these queries on; keys
  // and values (length, width); own keys and values (paths, kv_heads, steps, width) from their head
  // on.
  void run(const float* q, const float* keys, const float* values, const float* own_keys,
           const float* own_values, float* to) {
    const float scale = 1 / std::sqrt(static_cast<float>(s_.width));
    for (int64_t i = 0; i < size_; ++i)
      for (int64_t d = 0; d < s_.width; ++d) queries_[d * LANES + i] = scale * q[from(i) + d];
    for (int64_t j = 0; j < prefix_; j += KEYS) {
      expect(keys + (j + AHEAD) * s_.width, KEYS * s_.width);
      expect(values + j * s_.width, KEYS * s_.width);
      unrolled<KEYS>(prefix_ - j, [&](auto n) {
        score<n()>(keys + j * s_.width, queries_.data(), s_.width, &scores_[j * LANES]);
      });
    }
    for (int64_t i = 0; i < size_; ++i) look_at_own(i, q + from(i), own_keys + own(i), scale);
    soften();
    for (int64_t j = 0; j < prefix_; j += BLOCK)
      unrolled<LANES>(size_, [&](auto n) {
        gather<n()>(&scores_[j * LANES], values + j * s_.width, std::min(BLOCK, prefix_ - j),
                    s_.width, out_.data());
      });
    for (int64_t i = 0; i < size_; ++i) {
      gather<1>(scores_.data() + prefix_ * LANES + i, own_values + own(i), s_.seen, s_.width,
                &out_[i * s_.width]);
      std::copy_n(&out_[i * s_.width], s_.width, to + place(i));
    }
  }

 private:
  int64_t path(int64_t i) const { return (begin_ + i) / s_.each(); }

  int64_t head(int64_t i) const { return (begin_ + i) % s_.each(); }

  int64_t from(int64_t i) const { return path(i) * s_.stride + head(i) * s_.width; }

  int64_t place(int64_t i) const { return (path(i) * s_.heads + head(i)) * s_.width; }

  int64_t own(int64_t i) const { return path(i) * s_.kv_heads * s_.steps * s_.width; }

  void look_at_own(int64_t i, const float* q, const float* keys, float scale) {
    for (int64_t j = 0; j < s_.seen; ++j) {
      Vec dot{};
      for (int64_t d = 0; d < s_.width; d += W) dot += load(q + d) * load(keys + j * s_.width + d);
      scores_[(prefix_ + j) * LANES + i] = scale * sum(dot);
    }
  }

  // Softmax over the keys, in place.
  void soften() {
    Lanes highest = load<Lanes>(scores_.data());
    for (size_t j = LANES; j < scores_.size(); j += LANES) {
      const Lanes v = load<Lanes>(&scores_[j]);
      highest = v > highest ? v : highest;
    }
    Lanes total{};
    for (size_t j = 0; j < scores_.size(); j += LANES) {
      const Lanes e = exponential(load<Lanes>(&scores_[j]) - highest);
      total += e;
      store(&scores_[j], e);
    }
    const Lanes share = 1 / total;
    for (size_t j = 0; j < scores_.size(); j += LANES)
      store(&scores_[j], load<Lanes>(&scores_[j]) * share);
  }

  const Shape& s_;
  const int64_t begin_, size_, prefix_;
  std::vector<float> queries_, scores_, out_;
};

}  // namespace

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

// Attention under one softmax over a prefix that the paths of a lane share, and over each row's own.
// q (lanes · paths, stride), each row of which begins with heads of `width`; keys and values (slots,
// kv_heads, length, width), of which lane l looks at slot slots[l] as far as counts[l]; own keys and
// values (lanes · paths, kv_heads, steps, width), of which each row looks at its first `seen`; out
// (lanes · paths, heads, width).
void attend(const float* q, const float* keys, const float* values, const float* own_keys,
            const float* own_values, const int64_t* slots, const int64_t* counts, int64_t lanes,
            int64_t paths, int64_t heads, int64_t kv_heads, int64_t width, int64_t stride,
            int64_t length, int64_t steps, int64_t seen, float* out) {
  const Shape shape{paths, heads, kv_heads, width, stride, length, steps, seen};
  const int64_t tiles = shape.tiles(), queries = shape.queries();
#pragma omp parallel for
  for (int64_t work = 0; work < lanes * kv_heads * tiles; ++work) {
    const int64_t tile = work % tiles, head = work / tiles % kv_heads;
    const int64_t lane = work / tiles / kv_heads;
    const int64_t shared = (slots[lane] * kv_heads + head) * length * width;
    const int64_t own = (lane * paths * kv_heads + head) * steps * width;
    const int64_t first = head * shape.each() * width;
    Tile(shape, tile * queries / tiles, (tile + 1) * queries / tiles, counts[lane])
        .run(q + lane * paths * stride + first, keys + shared, values + shared, own_keys + own,
             own_values + own, out + lane * paths * heads * width + first);
  }
}

}  // extern "C"
