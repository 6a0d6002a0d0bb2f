// Attention of a step's queries over what many of them share and over what is each one's own.

#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t LANES = WIDE;  // queries that share a pass over the keys, one in each lane
constexpr int64_t KEYS = 12;     // keys whose scores are summed in registers together
constexpr int64_t BLOCK = 64;    // values that stay in the first cache while a tile passes

// Scores (N, LANES) of N keys (N, width) and queries (width, LANES). Asks for as much from `next`.
template <int N>
void score(const float* keys, const float* queries, int64_t width, const float* next,
           float* scores) {
  Wide sums[N] = {};
  for (int64_t d = 0; d < width; ++d) {
    __builtin_prefetch(next + d * N);
    const Wide q = load<Wide>(queries + d * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) sums[i] += keys[i * width + d] * q;
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(scores + i * LANES, sums[i]);
}

// Adds `Each` vectors of the values (count, width) to N rows of `out` (N, width), by their weights
// (count, LANES). Asks for as much from `next`, a row of values after the other.
template <int N, int Each, typename V>
void add(const float* weights, const float* values, int64_t count, int64_t width,
         const float* next, float* out) {
  constexpr int64_t size = sizeof(V) / sizeof(float);
  V sums[N][Each];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int e = 0; e < Each; ++e) sums[i][e] = load<V>(out + i * width + e * size);
  for (int64_t j = 0; j < count; ++j) {
    __builtin_prefetch(next + j * width);
    V v[Each];
#pragma GCC unroll 2
    for (int e = 0; e < Each; ++e) v[e] = load<V>(values + j * width + e * size);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
      for (int e = 0; e < Each; ++e) sums[i][e] += weights[j * LANES + i] * v[e];
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int e = 0; e < Each; ++e) store(out + i * width + e * size, sums[i][e]);
}

// Adds the values (count, width) to N rows of `out` (N, width), by their weights (count, LANES).
template <int N>
void gather(const float* weights, const float* values, int64_t count, int64_t width,
            const float* next, float* out) {
  constexpr int EACH = 2 * N <= SUMS ? 2 : 1;
  int64_t d = 0;
  for (; d + EACH * WIDE <= width; d += EACH * WIDE)
    add<N, EACH, Wide>(weights, values + d, count, width, next + d, out + d);
  for (; d < width; d += W) add<N, 1, Vec>(weights, values + d, count, width, next + d, out + d);
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
  // on. Values are asked for while keys are read, and keys of the `next` head while values are.
  void run(const float* q, const float* keys, const float* values, const float* own_keys,
           const float* own_values, const float* next, float* to) {
    const float scale = 1 / std::sqrt(static_cast<float>(s_.width));
    for (int64_t i = 0; i < size_; ++i)
      for (int64_t d = 0; d < s_.width; ++d) queries_[d * LANES + i] = scale * q[from(i) + d];
    for (int64_t j = 0; j < prefix_; j += KEYS)
      unrolled<KEYS>(prefix_ - j, [&](auto n) {
        score<n()>(keys + j * s_.width, queries_.data(), s_.width, values + j * s_.width,
                   &scores_[j * LANES]);
      });
    for (int64_t i = 0; i < size_; ++i) look_at_own(i, q + from(i), own_keys + own(i), scale);
    soften();
    for (int64_t j = 0; j < prefix_; j += BLOCK)
      unrolled<LANES>(size_, [&](auto n) {
        gather<n()>(&scores_[j * LANES], values + j * s_.width, std::min(BLOCK, prefix_ - j),
                    s_.width, next + j * s_.width, out_.data());
      });
    for (int64_t i = 0; i < size_; ++i) {
      gather<1>(scores_.data() + prefix_ * LANES + i, own_values + own(i), s_.seen, s_.width,
                own_values + own(i + 1), &out_[i * s_.width]);
      for (int64_t d = 0; d < s_.width; d += W)
        store(to + place(i) + d, load(&out_[i * s_.width + d]) * shares_[i]);
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

  // The scores become weights, and `shares_` what divides each query's by their sum.
  void soften() {
    Wide highest = load<Wide>(scores_.data());
    for (size_t j = LANES; j < scores_.size(); j += LANES) {
      const Wide v = load<Wide>(&scores_[j]);
      highest = v > highest ? v : highest;
    }
    Wide total{};
    for (size_t j = 0; j < scores_.size(); j += LANES) {
      const Wide e = exponential(load<Wide>(&scores_[j]) - highest);
      total += e;
      store(&scores_[j], e);
    }
    store(shares_, 1 / total);
  }

  const Shape& s_;
  const int64_t begin_, size_, prefix_;
  std::vector<float> queries_, scores_, out_;
  float shares_[LANES];
};

}  // namespace

extern "C" {

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
  const auto shared = [&](int64_t work) {
    const int64_t head = work / tiles;
    return (slots[head / kv_heads % lanes] * kv_heads + head % kv_heads) * length * width;
  };
#pragma omp parallel for
  for (int64_t work = 0; work < lanes * kv_heads * tiles; ++work) {
    const int64_t tile = work % tiles, head = work / tiles % kv_heads;
    const int64_t lane = work / tiles / kv_heads;
    const int64_t own = (lane * paths * kv_heads + head) * steps * width;
    const int64_t first = head * shape.each() * width;
    Tile(shape, tile * queries / tiles, (tile + 1) * queries / tiles, counts[lane])
        .run(q + lane * paths * stride + first, keys + shared(work), values + shared(work),
             own_keys + own, own_values + own, keys + shared(work + 1),
             out + lane * paths * heads * width + first);
  }
}

}  // extern "C"
