// Checks of arguments that build the message "op: 'argument' must ..., got ...". Used by every validate().
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "fathom/core/tensor.hpp"

namespace fathom {

/// Whether validate() may look at what tensors hold. What it does not see on a device, kernels pass over
/// where it means nothing; the ops say how.
inline bool on_host(Device device) { return device.kind == DeviceKind::host; }

/// Throws InvalidArgument unless every condition holds; `op` and `argument` start the message. `device` is
/// the context's, where every tensor of the call must be.
struct Expect {
  std::string_view op;
  Device device{};

  [[noreturn]] void fail(std::string_view argument, std::string_view expected, std::string_view got) const;
  /// `got` of the message is the tensor's shape. -1 in `shape` accepts any size.
  void shape(std::string_view argument, const TensorView& tensor,
             std::initializer_list<std::int64_t> shape) const;
  void rank(std::string_view argument, const TensorView& tensor, int rank) const;
  void dtype(std::string_view argument, const TensorView& tensor, std::initializer_list<DType> allowed) const;
  /// Elements of the last axis are neighbours.
  void unit_stride(std::string_view argument, const TensorView& tensor) const;
  void contiguous(std::string_view argument, const TensorView& tensor) const;
  /// All tensors of one call live on the context's device.
  void on_device(std::string_view argument, const TensorView& tensor) const;
  void that(bool condition, std::string_view argument, std::string_view expected,
            std::string_view got) const {
    if (!condition) fail(argument, expected, got);
  }
  /// The same with a number or a tensor's shape, which become text only when the condition fails.
  template <class T>
  requires std::is_arithmetic_v<T>
  void that(bool condition, std::string_view argument, std::string_view expected, T got) const {
    if (!condition) [[unlikely]]
      fail(argument, expected, std::to_string(got));
  }
  void that(bool condition, std::string_view argument, std::string_view expected,
            const TensorView& got) const {
    if (!condition) [[unlikely]]
      fail(argument, expected, shape_string(got));
  }
  void at_least(std::string_view argument, std::int64_t value, std::int64_t least) const;
  /// dtype + shape + device + unit stride: the common case. Data may be null only if the tensor is empty.
  void tensor(std::string_view argument, const TensorView& tensor, std::initializer_list<DType> allowed,
              std::initializer_list<std::int64_t> shape) const;
};

}  // namespace fathom
