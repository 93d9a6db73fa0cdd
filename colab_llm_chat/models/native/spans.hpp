// Attention of a step's tokens, in parts for several threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention.hpp"
#include "few_queries.hpp"
#include "many_queries.hpp"
#include "threads.hpp"

namespace {

// Whether a part's queries are taken together.
inline bool together(const Attention& a, const Part& part) {
  return part.queries * a.group() >= FEWEST_LINES && a.group() <= MOST_LINES;
}

inline int64_t work(const Attention& a, const Part& part) {
  const int64_t length = part.end - part.start;
  return part.queries * (a.window ? std::min(length, a.window) : length) * (part.kv_to - part.kv_from);
}

// Floats that a thread needs meanwhile.
inline int64_t needed(const Attention& a, const Part& part) {
  if (!together(a, part)) return Kept::size(a, part);
  return (part.kv_to - part.kv_from) * Lines::size(a, MOST_LINES);
}

void attend_part(const Attention& a, const Part& part, float* scratch) {
  if (!together(a, part)) return attend_each(a, part, scratch);
  const int64_t lines = part.queries * a.group();
  const auto one = lines <= LANES ? attend_together<1> : lines <= 2 * LANES ? attend_together<2> : attend_together<4>;
  one(a, part, scratch);
}

// Parts of about the same work, a few for each thread: positions are read in whole where there are rows enough.
std::vector<Part> parts_of(const Attention& a, const int64_t* spans, int64_t count) {
  std::vector<Part> whole, parts;
  const int64_t most = std::max<int64_t>(MOST_LINES / a.group(), 1);
  int64_t all = 0;
  for (const int64_t* span = spans; span < spans + 4 * count; span += 4) {
    const int64_t tiles = (span[1] + most - 1) / most;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t first = span[1] * i / tiles, next = span[1] * (i + 1) / tiles;
      whole.push_back({span[0] + first, next - first, span[2], span[3] + first, 0, a.kv_heads});
      all += work(a, whole.back());
    }
  }
  const int64_t wanted = omp_get_max_threads() == 1 ? 1 : 4 * omp_get_max_threads();
  for (const Part& part : whole) {
    const int64_t share = (work(a, part) * wanted + all / 2) / std::max<int64_t>(all, 1);
    const int64_t pieces = std::clamp<int64_t>(share, 1, a.kv_heads);
    for (int64_t j = 0; j < pieces; ++j) {
      parts.push_back(part);
      parts.back().kv_from = a.kv_heads * j / pieces;
      parts.back().kv_to = a.kv_heads * (j + 1) / pieces;
    }
  }
  // The longest first: begun last, one thread would go through it alone.
  std::stable_sort(parts.begin(), parts.end(),
                   [&](const Part& one, const Part& other) { return work(a, one) > work(a, other); });
  return parts;
}

void attend_spans(const Attention& a, const int64_t* spans, int64_t count) {
  const std::vector<Part> parts = parts_of(a, spans, count);
  const int64_t all = static_cast<int64_t>(parts.size()), threads = all > 1 ? omp_get_max_threads() : 1;
  int64_t each = 0;
  for (const Part& part : parts) each = std::max(each, needed(a, part));
  // Kept, as there is such a call a layer; made before threads begin, out of which no want of memory could be told.
  static thread_local std::vector<float> kept;
  if (kept.size() < static_cast<size_t>(threads * each)) kept.resize(threads * each);
  float* scratch = kept.data();
#pragma omp parallel for schedule(dynamic, 1) if (all > 1)
  for (int64_t i = 0; i < all; ++i) attend_part(a, parts[i], scratch + omp_get_thread_num() * each);
}

}  // namespace
