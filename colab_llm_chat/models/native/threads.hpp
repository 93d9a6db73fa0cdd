// The shares of OpenMP's threads.

#pragma once

#include <cstdint>

#include <omp.h>

namespace {

// Less work than this is done before a second thread has begun.
constexpr int64_t WORTH_THREADS = 1 << 15;

// The share of a thread of `count` things, in whole `step`s.
struct Share {
  int64_t from, to;
  Share(int64_t count, int64_t step) {
    const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num(), steps = count / step;
    from = steps * me / threads * step;
    to = me + 1 == threads ? count : steps * (me + 1) / threads * step;
  }
};

}  // namespace
