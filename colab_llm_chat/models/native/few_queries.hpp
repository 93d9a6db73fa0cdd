// Attention of one query after the other.

#pragma once

#include <algorithm>
#include <cstdint>

#include "attention.hpp"
#include "vectors.hpp"

namespace {

// Positions ahead of the one that is read, whose keys or values are asked of the memory.
constexpr int64_t AHEAD = 8;

// What a thread keeps of a part.
struct Kept {
  float *scores, *most, *sum, *queries;

  static int64_t size(const Attention& a, const Part& part) {
    const int64_t heads = (part.kv_to - part.kv_from) * a.group();
    return heads * (BLOCK + part.queries * (2 + a.dim));
  }
  Kept(const Attention& a, const Part& part, float* at) {
    const int64_t heads = (part.kv_to - part.kv_from) * a.group(), lines = heads * part.queries;
    scores = at, most = scores + heads * BLOCK, sum = most + lines, queries = sum + lines;
  }
};

// One query of a part and positions [from, to), after those before: shares are corrected once a larger score shows
// (Milakov and Gimelshein 2018, online softmax). DIM: the size of a head where it is known beforehand, else 0.
template <int DIM>
void add_block(const Attention& a, const Part& part, const Kept& kept, int64_t query, int64_t from, int64_t to,
               bool ahead) {
  const int64_t dim = DIM ? DIM : a.dim, value_dim = DIM ? DIM : a.value_dim;
  const int64_t group = a.group(), kv = part.kv_to - part.kv_from, heads = kv * group, count = to - from;
  const float* q = kept.queries + query * heads * dim;
  float *scores = kept.scores, *most = kept.most + query * heads, *sum = kept.sum + query * heads;
  float* out = a.out + ((part.token + query) * a.heads + part.kv_from * group) * value_dim;
  for (int64_t p = 0; p < count; ++p) {
    const float* k = a.keys + ((from + p) * a.kv_heads + part.kv_from) * dim;
    if (ahead) ask_for(k + AHEAD * a.kv_heads * dim, kv * dim);
    for (int64_t h = 0; h < heads; ++h) {
      const float *mine = q + h * dim, *its = k + h / group * dim;
      float score = 0;
#pragma omp simd reduction(+ : score)
      for (int64_t d = 0; d < dim; ++d) score += mine[d] * its[d];
      scores[h * BLOCK + p] = score;
    }
  }
  for (int64_t h = 0; h < heads; ++h) {
    float *mine = scores + h * BLOCK, *o = out + h * value_dim, top = most[h], added = 0;
    for (int64_t p = 0; p < count; ++p) top = mine[p] > top ? mine[p] : top;
    const float keep = exponential(most[h] - top);
    most[h] = top;
#pragma omp simd reduction(+ : added)
    for (int64_t p = 0; p < count; ++p) {
      mine[p] = exponential(mine[p] - top);
      added += mine[p];
    }
    sum[h] = sum[h] * keep + added;
    if (keep != 1.0f)
      for (int64_t d = 0; d < value_dim; ++d) o[d] *= keep;
  }
  const int64_t next = a.kv_heads * value_dim;
  for (int64_t p = 0; p < count; p += 4) {
    const float* v = a.values + ((from + p) * a.kv_heads + part.kv_from) * value_dim;
    const int64_t together = std::min<int64_t>(4, count - p);
    for (int64_t j = 0; ahead && j < together; ++j) ask_for(v + (AHEAD + j) * next, kv * value_dim);
    for (int64_t h = 0; h < heads; ++h) {
      const float *w = scores + h * BLOCK + p, *its = v + h / group * value_dim;
      float* o = out + h * value_dim;
      if (together == 4) {
        const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma omp simd
        for (int64_t d = 0; d < value_dim; ++d)
          o[d] += w0 * its[d] + w1 * its[next + d] + w2 * its[2 * next + d] + w3 * its[3 * next + d];
      } else {
        for (int64_t j = 0; j < together; ++j)
          for (int64_t d = 0; d < value_dim; ++d) o[d] += w[j] * its[j * next + d];
      }
    }
  }
}

template <int DIM>
void attend_each(const Attention& a, const Part& part, float* scratch) {
  const Kept kept(a, part, scratch);
  const int64_t group = a.group(), heads = (part.kv_to - part.kv_from) * group;
  const int64_t first_head = part.kv_from * group, lines = part.queries * heads;
  for (int64_t j = 0; j < part.queries; ++j)
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t line = j * heads + h;
      const float* from = a.q + (first_head + h) * a.head_stride + (part.token + j) * a.token_stride;
      for (int64_t d = 0; d < a.dim; ++d) kept.queries[line * a.dim + d] = from[d] * a.scale;
      // A sink takes a share and gives no value.
      kept.most[line] = a.sinks ? a.sinks[first_head + h] : NONE;
      kept.sum[line] = a.sinks ? 1.0f : 0.0f;
      float* o = a.out + ((part.token + j) * a.heads + first_head + h) * a.value_dim;
      std::fill(o, o + a.value_dim, 0.0f);
    }
  const int64_t last = part.end + part.queries - 1;
  const int64_t first = a.window ? std::max(part.start, part.end - a.window) : part.start;
  // A row's queries go through a block one after the other: it is read from memory once.
  for (int64_t block = first; block < last; block += BLOCK)
    for (int64_t j = 0; j < part.queries; ++j) {
      const int64_t end = part.end + j, sees = a.window ? std::max(part.start, end - a.window) : part.start;
      const int64_t from = std::max(block, sees), to = std::min(block + BLOCK, end);
      if (from < to) add_block<DIM>(a, part, kept, j, from, to, j == 0);
    }
  for (int64_t line = 0; line < lines; ++line) {
    float* o = a.out + ((part.token + line / heads) * a.heads + first_head + line % heads) * a.value_dim;
    const float all = divisor(kept.most[line], kept.sum[line]);
    for (int64_t d = 0; d < a.value_dim; ++d) o[d] /= all;
  }
}

}  // namespace
