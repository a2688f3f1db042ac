// TileQueues: which of a device's queues of tiles a grouped product draws from.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "fathom/core/context.hpp"
#include "layout/gemm.cuh"

namespace fathom {

class TileQueues : public std::enable_shared_from_this<TileQueues> {
 public:
  TileQueues();

  /// One of those that launches take in turn: thousands lie between two that have the same.
  int next() { return static_cast<int>(launches_++ % kTileQueues); }
  /// One that is nobody else's as long as the pointer lives: a recorded launch may be replayed beside any
  /// other. Nothing if all are in use.
  std::shared_ptr<const int> reserve();

 private:
  std::atomic<unsigned> launches_ = 0;
  std::mutex mutex_;
  std::vector<int> free_;
};

/// The queue for the next launch on the context's stream. That of a recorded launch is given back with the
/// last of its graph; -1, none, while too many are in use.
int tile_queue(const Context& context);

}  // namespace fathom
