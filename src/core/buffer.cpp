#include "fathom/core/buffer.hpp"

#include <cstdlib>
#include <cstring>
#include <string>

#include "fathom/core/error.hpp"

namespace fathom {

Buffer::Buffer(std::int64_t bytes) : size_(bytes) {
  if (bytes < 0) throw InvalidArgument("Buffer: size must not be negative, got " + std::to_string(bytes));
  constexpr std::size_t kAlignment = 64;
  if (bytes == 0) return;
  // Large buffers are page-aligned so that the kernel can back them with huge pages.
  const std::size_t alignment = bytes >= (1 << 21) ? 4096 : kAlignment;
  const std::size_t rounded = (static_cast<std::size_t>(bytes) + alignment - 1) / alignment * alignment;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
  if (!data_) throw EnvironmentError("out of memory: " + std::to_string(bytes) + " bytes were asked for");
}

Buffer Buffer::zeroed(std::int64_t bytes) {
  Buffer buffer(bytes);
  if (bytes > 0) std::memset(buffer.data(), 0, static_cast<std::size_t>(bytes));
  return buffer;
}

TensorView Buffer::view(DType dtype, std::initializer_list<std::int64_t> shape) const {
  const TensorView tensor = TensorView::contiguous(data(), dtype, shape);
  if (tensor.count() > size_ / size_of(dtype)) {
    throw InvalidArgument("Buffer: " + std::string(to_string(dtype)) + shape_string(tensor) +
                          " does not fit in " + std::to_string(size_) + " bytes");
  }
  return tensor;
}

void Buffer::Free::operator()(std::byte* data) const { std::free(data); }

}  // namespace fathom
