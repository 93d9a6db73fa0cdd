// How work is shared out among OpenMP's threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <omp.h>

namespace {

// Less work than this is done before a second thread has begun.
constexpr int64_t WORTH_THREADS = 1 << 15;

// Pieces of work, of which each thread has a run of its own: what it will read next is known beforehand. Who is done
// helps the others, as a thread may be held up by another program, such as the one that hands on the text.
class Pieces {
 public:
  explicit Pieces(int64_t pieces) : count(pieces), runs(std::clamp<int64_t>(omp_get_max_threads(), 1, MOST_RUNS)) {
    for (int64_t run = 0; run < runs; ++run) next[run].value = count * run / runs;
  }

  // Called by each thread: `work(piece, last)`, which tells whether another one follows the piece in its run.
  template <typename Work>
  void share_out(const Work& work) {
    for (int64_t i = 0; i < runs; ++i) {
      const int64_t run = (omp_get_thread_num() + i) % runs, end = count * (run + 1) / runs;
      for (int64_t piece = next[run].value++; piece < end; piece = next[run].value++) work(piece, piece + 1 == end);
    }
  }

 private:
  static constexpr int64_t MOST_RUNS = 64;
  // Each in a cache line of its own.
  struct alignas(64) Next {
    std::atomic<int64_t> value;
  };
  const int64_t count, runs;
  Next next[MOST_RUNS];
};

}  // namespace
