// OpenMP, or a single thread where the compiler has none.

#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#else
inline int omp_get_num_threads() { return 1; }
inline int omp_get_thread_num() { return 0; }
inline int omp_get_max_threads() { return 1; }
#endif

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
