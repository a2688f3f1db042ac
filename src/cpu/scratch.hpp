// Memory of a thread that grows and is kept, so that a call allocates nothing once it is warm.
#pragma once
#include "fathom/core/buffer.hpp"

namespace fathom::cpu {

/// 64-byte aligned; one for every Tag. Valid until the thread's next call with that Tag.
template <class Tag>
std::byte* thread_scratch(std::int64_t bytes) {
  thread_local Buffer buffer;
  if (buffer.size() < bytes) buffer = Buffer(bytes + bytes / 2);
  return buffer.data();
}

constexpr std::int64_t align_to(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace fathom::cpu
