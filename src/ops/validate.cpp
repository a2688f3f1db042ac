#include "ops/validate.hpp"

#include <string>

#include "fathom/core/error.hpp"

namespace fathom {
namespace {
std::string join(std::initializer_list<std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t size : shape) {
    text += (text.size() > 1 ? "," : "") + (size < 0 ? std::string("*") : std::to_string(size));
  }
  return text + "]";
}
}  // namespace

void Expect::fail(std::string_view argument, std::string_view expected, std::string_view got) const {
  throw InvalidArgument(std::string(op) + ": '" + std::string(argument) + "' must " + std::string(expected) +
                        ", got " + std::string(got));
}

void Expect::shape(std::string_view argument, const TensorView& tensor,
                   std::initializer_list<std::int64_t> expected) const {
  bool same = tensor.rank == static_cast<int>(expected.size());
  int axis = 0;
  for (const std::int64_t size : expected) {
    if (!same) break;
    same = tensor.size(axis) >= 0 && (size < 0 || tensor.size(axis) == size);
    ++axis;
  }
  if (!same) fail(argument, "have shape " + join(expected), shape_string(tensor));
}

void Expect::rank(std::string_view argument, const TensorView& tensor, int rank) const {
  if (tensor.rank != rank) fail(argument, "have " + std::to_string(rank) + " axes", shape_string(tensor));
}

void Expect::dtype(std::string_view argument, const TensorView& tensor,
                   std::initializer_list<DType> allowed) const {
  std::string names;
  for (const DType dtype : allowed) {
    if (tensor.dtype == dtype) return;
    names += (names.empty() ? "" : " or ") + std::string(to_string(dtype));
  }
  fail(argument, "be " + names, to_string(tensor.dtype));
}

void Expect::unit_stride(std::string_view argument, const TensorView& tensor) const {
  const int last = tensor.rank - 1;
  if (last >= 0 && tensor.size(last) > 1 && tensor.step(last) != 1) {
    fail(argument, "have stride 1 on its last axis", std::to_string(tensor.step(last)));
  }
}

void Expect::contiguous(std::string_view argument, const TensorView& tensor) const {
  if (!tensor.is_contiguous()) fail(argument, "be contiguous", "other strides for " + shape_string(tensor));
}

void Expect::on_device(std::string_view argument, const TensorView& tensor) const {
  if (tensor.device == device) [[likely]]
    return;
  const bool on_host = tensor.device.kind == DeviceKind::host;
  if (device.kind == DeviceKind::host) fail(argument, "be in host memory", "a CUDA tensor");
  fail(argument, "be on " + to_string(device) + ", the context's device",
       on_host ? "a tensor in host memory" : "one on " + to_string(tensor.device));
}

void Expect::at_least(std::string_view argument, std::int64_t value, std::int64_t least) const {
  if (value < least) fail(argument, "be at least " + std::to_string(least), std::to_string(value));
}

void Expect::tensor(std::string_view argument, const TensorView& tensor, std::initializer_list<DType> allowed,
                    std::initializer_list<std::int64_t> expected) const {
  dtype(argument, tensor, allowed);
  shape(argument, tensor, expected);
  on_device(argument, tensor);
  unit_stride(argument, tensor);
  if (tensor.data == nullptr && tensor.count() > 0) fail(argument, "have data", "a null pointer");
}

}  // namespace fathom
