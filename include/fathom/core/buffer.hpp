// Buffer: owned host memory, aligned for vector loads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>

#include "fathom/core/tensor.hpp"

namespace fathom {

/// Owns 64-byte aligned host memory. Contents are not initialised unless zeroed() made it. Move-only.
class Buffer {
 public:
  Buffer() = default;
  /// Throws EnvironmentError if the memory cannot be had.
  explicit Buffer(std::int64_t bytes);
  static Buffer zeroed(std::int64_t bytes);

  std::byte* data() const { return data_.get(); }
  std::int64_t size() const { return size_; }
  /// A contiguous view of the front of the buffer. Throws InvalidArgument if the tensor does not fit.
  TensorView view(DType dtype, std::initializer_list<std::int64_t> shape) const;

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace fathom
