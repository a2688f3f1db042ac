// A tensor in host memory and its copy on the device, for ops that give the same bytes on both.
#pragma once
#include <initializer_list>
#include <utility>

#include "on_device.hpp"

namespace fathom {

/// `buffer` is one- or two-dimensional; the view may have any shape and strides inside of it.
class Twin {
 public:
  explicit Twin(Tensor buffer) : Twin(std::move(buffer), [](const TensorView& all) { return all; }) {}
  template <class Shape>
  Twin(Tensor buffer, const Shape& shape)
      : buffer_(std::move(buffer)), host_(shape(buffer_.view())), device_(buffer_.view(), host_) {}

  const TensorView& host() const { return host_; }
  const TensorView& device() const { return device_.view(); }
  const Tensor& buffer() const { return buffer_; }
  /// The device's copy of the whole buffer.
  Strided download() const { return device_.download(); }
  /// Puts the host's buffer there again.
  void reset() const { device_.upload(buffer_.view()); }
  /// Both hold the same bytes, those between the rows included.
  void expect_same() const { expect_same_bytes(device_.download().buffer.view(), buffer_.view()); }

 private:
  Tensor buffer_;
  TensorView host_;
  OnDevice device_;
};

/// A view of `all` with these sizes and strides, `offset` elements into it.
inline TensorView shaped(const TensorView& all, std::initializer_list<std::int64_t> shape,
                         std::initializer_list<std::int64_t> stride, std::int64_t offset = 0) {
  TensorView view = all;
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  std::copy(stride.begin(), stride.end(), view.stride.begin());
  if (view.data != nullptr) view.data = view.as<std::byte>() + offset * size_of(view.dtype);
  return view;
}

/// The first `width` columns.
inline auto columns(std::int64_t width) {
  return [width](const TensorView& all) { return shaped(all, {all.size(0), width}, {all.step(0), 1}); };
}

}  // namespace fathom
