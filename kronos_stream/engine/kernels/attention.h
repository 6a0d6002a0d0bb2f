// Attention of many queries over what they share and over what is their own, under one softmax.

#pragma once

#include <limits>
#include <vector>

#include "numbers.h"
#include "vectors.h"

namespace {

constexpr int64_t LANES = WIDE;  // queries that share a pass over the keys, one in each lane
constexpr int64_t KEYS = 12;     // keys whose scores are summed in registers together
constexpr int64_t BLOCK = 64;    // values that stay in the first cache while a tile passes
constexpr float NEVER = -std::numeric_limits<float>::infinity();

// Memory that is read soon: a line of it is asked for with each turn of a loop, `pace` floats
// further. What a pace of more than a line leaves out is for the processor to guess.
struct Ahead {
  const float* from;
  int64_t pace;

  void ask(int64_t turn) const { __builtin_prefetch(from + turn * pace); }
};

// Scores (N, LANES) of N keys (N, depth) and queries (depth, LANES), numbers of a kind.
template <typename Kind, int N>
void score(const float* keys, const float* queries, int64_t depth, const Ahead (&soon)[3],
           float* scores) {
  Wide sums[N] = {};
  for (int64_t d = 0; d < depth; ++d) {
    for (const Ahead& some : soon) some.ask(d);
    const Wide q = load<Wide>(queries + d * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) sums[i] = Kind::add(sums[i], spread<Wide>(keys[i * depth + d]), q);
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(scores + i * LANES, sums[i]);
}

// Adds `Each` vectors of the values (count, width), from column d on, to N rows of `out` (N, width),
// by their weights (count, LANES): for pairs (count / 2, LANES), where those of values 2j and 2j + 1
// share a place. Asks for as much from `next`.
template <typename Kind, int N, int Each, typename V>
void add(const float* weights, const float* values, int64_t d, int64_t count, int64_t width,
         const float* next, float* out) {
  constexpr int64_t size = sizeof(V) / sizeof(float);
  const int64_t depth = width / Kind::EACH;
  V sums[N][Each];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int e = 0; e < Each; ++e) sums[i][e] = load<V>(out + i * width + d + e * size);
  for (int64_t j = 0; j < count; j += Kind::EACH, weights += LANES) {
    __builtin_prefetch(next + j * depth + d);
    // An odd last row is paired with itself, by weight 0: what is behind it may not be written.
    const float *row = values + j * depth, *below = j + 1 < count ? row + depth : row;
    V v[Each];
#pragma GCC unroll 2
    for (int e = 0; e < Each; ++e) v[e] = Kind::template column<V>(row, below, d + e * size);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
      for (int e = 0; e < Each; ++e)
        sums[i][e] = Kind::add(sums[i][e], spread<V>(weights[i]), v[e]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int e = 0; e < Each; ++e) store(out + i * width + d + e * size, sums[i][e]);
}

// Adds the values (count, width) to N rows of `out` (N, width), by their weights (count, LANES).
template <typename Kind, int N>
void gather(const float* weights, const float* values, int64_t count, int64_t width,
            const float* next, float* out) {
  constexpr int EACH = 2 * N <= SUMS ? 2 : 1;
  int64_t d = 0;
  for (; d + EACH * WIDE <= width; d += EACH * WIDE)
    add<Kind, N, EACH, Wide>(weights, values, d, count, width, next, out);
  for (; d < width; d += W) add<Kind, N, 1, Vec>(weights, values, d, count, width, next, out);
}

struct Heads {
  int64_t queries, kv, width;

  int64_t each() const { return queries / kv; }
};

// What the rows of some lanes look at in one layer, as many rows of each lane: the lane's slot, and
// behind that what a run of rows has of its own. Where nothing is its own, the rows continue the
// slot. A row sees what is before it and itself. All are floats, or pairs where it is `paired`.
struct Memory {
  float *keys, *values;            // (slots, kv heads, length, width)
  float *own_keys, *own_values;    // (rows / run, kv heads, steps, width), or none
  const int64_t *slots, *lengths;  // of each lane
  int64_t lanes, length, steps, run, paired;
};

template <typename Kind>
void append_of(const float* keys, const float* values, const Memory& m, const Heads& h, int64_t rows,
               int64_t stride, int64_t step) {
  const int64_t each = rows / m.lanes;
#pragma omp for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t lane = r / each, length = m.own_keys ? m.steps : m.length;
    const int64_t owner = m.own_keys ? r / m.run : m.slots[lane];
    const int64_t place = m.own_keys ? step + r % m.run : m.lengths[lane] + r % each;
    for (int64_t k = 0; k < h.kv; ++k) {
      const int64_t from = r * stride + k * h.width;
      const int64_t to = ((owner * h.kv + k) * length + place) * h.width / Kind::EACH;
      Kind::put(keys + from, h.width, (m.own_keys ? m.own_keys : m.keys) + to);
      Kind::put(values + from, h.width, (m.own_keys ? m.own_values : m.values) + to);
    }
  }
}

// Keys and values (rows, heads, width), whose rows lie `stride` apart, to where they belong: of its
// own, to a run's steps from `step` on. Each thread does its share of the rows.
void append(const float* keys, const float* values, const Memory& m, const Heads& h, int64_t rows,
            int64_t stride, int64_t step) {
  of_kind(m.paired, [&](auto kind) {
    append_of<decltype(kind)>(keys, values, m, h, rows, stride, step);
  });
}

// At most LANES of the queries that look at one key/value head of one lane: a row's after the
// other's. Scores are (keys, LANES): the slot's, then from `own_` on those of each query's own; so
// are weights, but for pairs those of keys 2j and 2j + 1 share a place.
template <typename Kind>
class Tile {
 public:
  // `seen`: how much of its own the first row of a run sees.
  Tile(const Memory& m, const Heads& h, int64_t lane, int64_t begin, int64_t end, int64_t seen)
      : m_(m),
        h_(h),
        size_(end - begin),
        seen_(seen),
        filled_(m.lengths[lane]),
        depth_(h.width / Kind::EACH) {
    for (int64_t i = 0; i < size_; ++i) {
      rows_[i] = (begin + i) / h.each();
      heads_[i] = (begin + i) % h.each();
    }
    shared_ = m.own_keys ? filled_ : filled_ + rows_[size_ - 1] + 1;
    most_ = m.own_keys ? seen + std::min(m.run, rows_[size_ - 1] + 1) - 1 : 0;
    scaled_.resize(size_ * depth_);
    queries_.assign(depth_ * LANES, 0.0f);
    own_ = up(shared_);
    scores_.assign((own_ + up(most_)) * LANES, 0.0f);
    out_.assign(size_ * h.width, 0.0f);
  }

  // q (rows, stride) and `to` (rows, heads, width) from the lane's first row and the first head of
  // these queries on; keys and values of their head; own keys and values from the lane's first run
  // and their head on. Values and what is their own are asked for while keys are read, and keys of
  // the `next` head while values are.
  void run(const float* q, int64_t stride, const float* keys, const float* values,
           const float* own_keys, const float* own_values, const float* next, float* to) {
    const int64_t width = h_.width;
    const float scale = 1 / std::sqrt(static_cast<float>(width));
    std::vector<float> floats(width);
    for (int64_t i = 0; i < size_; ++i) {
      const float* from = q + rows_[i] * stride + heads_[i] * width;
      for (int64_t d = 0; d < width; ++d) floats[d] = scale * from[d];
      float* scaled = &scaled_[i * depth_];
      Kind::put(floats.data(), width, scaled);
      for (int64_t d = 0; d < depth_; ++d) queries_[d * LANES + i] = scaled[d];
    }
    for (int64_t j = 0; j < shared_; j += KEYS)
      unrolled<KEYS>(shared_ - j, [&](auto n) {
        const Ahead soon[] = {
            {values + j * depth_, n()}, part(own_keys, j, n()), part(own_values, j, n())};
        score<Kind, n()>(keys + j * depth_, queries_.data(), depth_, soon, &scores_[j * LANES]);
      });
    for (int64_t i = 0; i < size_; ++i) {
      if (m_.own_keys)
        look_at_own(i, own_keys + own(i));
      else
        hide(i, filled_ + rows_[i] + 1);
    }
    for (int64_t i = shared_ * LANES; i < own_ * LANES; ++i) scores_[i] = NEVER;
    soften();
    const float* weights = scores_.data();
    for (int64_t j = 0; j < shared_; j += BLOCK)
      unrolled<LANES>(size_, [&](auto n) {
        gather<Kind, n()>(weights + j / Kind::EACH * LANES, values + j * depth_,
                          std::min(BLOCK, shared_ - j), width, next + j * depth_, out_.data());
      });
    for (int64_t i = 0; i < size_; ++i) {
      float* out = &out_[i * width];
      if (m_.own_keys)
        gather<Kind, 1>(weights + own_ / Kind::EACH * LANES + i, own_values + own(i), of_own(i),
                        width, own_values + own(i), out);
      for (int64_t d = 0; d < width; d += W)
        store(to + (rows_[i] * h_.queries + heads_[i]) * width + d, load(out + d) * shares_[i]);
    }
  }

 private:
  int64_t own(int64_t i) const { return rows_[i] / m_.run * h_.kv * m_.steps * depth_; }

  int64_t of_own(int64_t i) const { return seen_ + rows_[i] % m_.run; }

  // What is the queries' own, keys or values, is spread over the slot's keys: the part to ask for
  // while `count` of these from j on are scored. Meant for long slots and runs of one row.
  Ahead part(const float* from, int64_t j, int64_t count) const {
    if (!m_.own_keys) return {queries_.data(), 0};
    const int64_t i = j * size_ / shared_, all = size_ * seen_ * depth_;
    const int64_t begin = (j - i * shared_ / size_) * all / shared_;
    return {from + own(i) + begin, (count * all - 1) / (shared_ * depth_) + 1};
  }

  void look_at_own(int64_t i, const float* keys) {
    const float* q = &scaled_[i * depth_];
    for (int64_t j = 0; j < of_own(i); ++j, keys += depth_) {
      Vec dot{};
      int64_t d = 0;
      for (; d + W <= depth_; d += W) dot = Kind::add(dot, load(q + d), load(keys + d));
      if (d < depth_) dot += Kind::values(q + d) * Kind::values(keys + d);
      scores_[(own_ + j) * LANES + i] = sum(dot);
    }
    hide(i, own_ + of_own(i));
  }

  // The next number of keys that fills numbers up.
  static int64_t up(int64_t keys) { return (keys + Kind::EACH - 1) / Kind::EACH * Kind::EACH; }

  // Nothing from `end` on is for this query.
  void hide(int64_t i, int64_t end) {
    for (size_t j = end * LANES + i; j < scores_.size(); j += LANES) scores_[j] = NEVER;
  }

  // The scores become weights, and `shares_` what divides each query's by their sum.
  void soften() {
    Wide highest = load<Wide>(scores_.data());
    for (size_t j = LANES; j < scores_.size(); j += LANES) {
      const Wide v = load<Wide>(&scores_[j]);
      highest = v > highest ? v : highest;
    }
    Wide total{};
    for (size_t j = 0; j < scores_.size(); j += Kind::EACH * LANES) {
      Wide rows[Kind::EACH];
      for (int64_t r = 0; r < Kind::EACH; ++r) {
        rows[r] = exponential(load<Wide>(&scores_[j + r * LANES]) - highest);
        total += rows[r];
      }
      store(&scores_[j / Kind::EACH], Kind::column(rows));
    }
    store(shares_, 1 / total);
  }

  const Memory& m_;
  const Heads& h_;
  const int64_t size_, seen_, filled_, depth_;
  int64_t rows_[LANES], heads_[LANES];
  int64_t shared_, most_, own_;  // keys of the slot, of any query's own, and where these begin
  std::vector<float> scaled_, queries_, scores_, out_;
  float shares_[LANES];
};

template <typename Kind>
void attend_of(const float* q, int64_t stride, const Memory& m, const Heads& h, int64_t rows,
               int64_t seen, float* out) {
  const int64_t each = rows / m.lanes, queries = each * h.each(), depth = h.width / Kind::EACH;
  const int64_t tiles = (queries + LANES - 1) / LANES;
  const auto place = [&](int64_t work) {
    const int64_t head = work / tiles;
    return (m.slots[head / h.kv % m.lanes] * h.kv + head % h.kv) * m.length * depth;
  };
#pragma omp for schedule(static)
  for (int64_t work = 0; work < m.lanes * h.kv * tiles; ++work) {
    const int64_t tile = work % tiles, head = work / tiles % h.kv, lane = work / tiles / h.kv;
    const int64_t first = head * h.each() * h.width;
    const int64_t own =
        m.own_keys ? (lane * (each / m.run) * h.kv + head) * m.steps * depth : 0;
    Tile<Kind>(m, h, lane, tile * queries / tiles, (tile + 1) * queries / tiles, seen)
        .run(q + lane * each * stride + first, stride, m.keys + place(work),
             m.values + place(work), m.own_keys + own, m.own_values + own,
             m.keys + place(work + 1), out + lane * each * h.queries * h.width + first);
  }
}

// q (rows, stride), each row of which begins with its heads, over what they see → out (rows, heads,
// width). Each thread does its share of the tiles.
void attend(const float* q, int64_t stride, const Memory& m, const Heads& h, int64_t rows,
            int64_t seen, float* out) {
  of_kind(m.paired, [&](auto kind) {
    attend_of<decltype(kind)>(q, stride, m, h, rows, seen, out);
  });
}

}  // namespace
