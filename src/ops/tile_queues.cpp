#include "ops/tile_queues.hpp"

#include <string>

#include "core/log.hpp"
#include "cuda/recording.hpp"

namespace fathom {

TileQueues::TileQueues() {
  free_.reserve(kRecordedTileQueues);  // giving one back must not fail
  for (int i = kRecordedTileQueues; i-- > 0;) free_.push_back(kTileQueues + i);
}

std::shared_ptr<const int> TileQueues::reserve() {
  const auto give_back = [queues = shared_from_this()](const int* queue) {
    const std::lock_guard lock(queues->mutex_);
    queues->free_.push_back(*queue);
    delete queue;
  };
  auto queue = std::make_unique<int>();
  {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return nullptr;
    *queue = free_.back();
    free_.pop_back();
  }
  return {queue.release(), give_back};
}

int tile_queue(const Context& context) {
  auto& queues =
      cuda::device_context(context).attached<TileQueues>([] { return std::make_shared<TileQueues>(); });
  const cuda::GraphHandle graph = cuda::recorded_graph(context);
  if (graph == nullptr) return queues.next();
  const std::shared_ptr<const int> queue = queues.reserve();
  if (queue != nullptr) {
    cuda::keep_with(graph, queue, context);
    return *queue;
  }
  if (context.verbose("dispatch")) {
    log_info("dispatch: all " + std::to_string(kRecordedTileQueues) +
             " queues for recorded products are in use: this one does without");
  }
  return -1;
}

}  // namespace fathom
