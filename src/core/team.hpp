// The threads of a Context: they stay awake for a moment after every loop, so that the next one starts at
// once.
#pragma once
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

#include <cstdint>
#include <memory>
#include <mutex>

#include "fathom/core/context.hpp"

namespace fathom {

/// Runs loops on `threads` threads, the caller's among them; the others are TBB's.
///
/// A decoded token is some sixty loops of 2 to 30 us. TBB takes about 2 us to bring a second thread into a
/// loop, a thread that watches for it 0.3 us. So a thread that came to help stays: it watches, then offers
/// its core to others, and goes back to TBB when nothing has come for a while (docs/adr/0056).
class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return threads_; }
  /// As Context::parallel_for. One loop at a time: that of another thread waits, that of a body runs alone.
  void run(std::int64_t count, std::int64_t grain, RangeBody body);

 private:
  struct Shared;
  void invite(int helpers);

  const int threads_;
  std::mutex mutex_;
  std::unique_ptr<Shared> shared_;
  tbb::task_arena arena_;
  tbb::task_group helpers_;
  bool invited_ = false;
};

}  // namespace fathom
