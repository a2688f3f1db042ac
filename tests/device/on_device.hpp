// Host tensors and their copies on a CUDA device, between guard zones, for the tests that need a GPU.
#pragma once
#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fathom/core/op_info.hpp"
#include "fathom/cuda/device.hpp"
#include "jit/cubin_store.hpp"
#include "ops/gemm_test.hpp"
#include "ops/op_test.hpp"

namespace fathom {

/// The context of the test run: the first device, or the one FATHOM_DEVICE names; fallbacks allowed.
const Context& device_context();
/// As device_context(), but every op that has `implementation` runs it.
const Context& device_context(const std::string& implementation);

/// What the op runs on CUDA tensors, best first.
inline std::vector<std::string> cuda_implementations(std::string_view op) {
  std::vector<std::string> names;
  for (const OpInfo* info : all_ops()) {
    if (info->name != op) continue;
    for (const std::string_view name : info->implementations) {
      if (!name.starts_with("cpu:") && !name.starts_with("ref:")) names.emplace_back(name);
    }
  }
  EXPECT_FALSE(names.empty()) << op << " has none, or is no op";
  return names;
}

/// body(first, last) for slices of `rows` on all cores: references are plain loops, far slower
/// than what they check.
inline void on_slices(std::int64_t rows, const std::function<void(std::int64_t, std::int64_t)>& body) {
  const auto cores = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  const std::int64_t each = std::max<std::int64_t>(1, rows / (4 * cores));
  jit::on_all_cores(static_cast<std::size_t>((rows + each - 1) / each), static_cast<int>(cores),
                    [&](std::size_t slice) {
                      const std::int64_t first = static_cast<std::int64_t>(slice) * each;
                      body(first, std::min(rows, first + each));
                    });
}

// A fresh one; failures in its scope name it.
struct Seed {
  std::int64_t value = std::random_device{}();
  testing::ScopedTrace trace{__FILE__, __LINE__, "seed " + std::to_string(value)};
};

/// A buffer and a view into it, copied to the device. The destructor fails the test if a guard zone was
/// overwritten.
class OnDevice {
 public:
  static constexpr std::int64_t kGuard = 1024;

  /// `view` looks into `buffer`. `shift` moves the copy away from the allocation's alignment, in bytes.
  OnDevice(const TensorView& buffer, const TensorView& view, std::int64_t shift = 0)
      : host_(buffer),
        bytes_(buffer.count() * size_of(buffer.dtype)),
        front_(kGuard + shift),
        memory_(device_context(), front_ + bytes_ + kGuard),
        view_(view) {
    cuda::fill(device_context(), memory_.data(), kGuardByte, memory_.size());
    upload(buffer);
    const auto offset = view.as<std::byte>() - buffer.as<std::byte>();
    view_.data = memory_.data() + front_ + (bytes_ > 0 ? offset : 0);
    view_.device = device_context().device();
  }
  explicit OnDevice(const Tensor& tensor, std::int64_t shift = 0)
      : OnDevice(tensor.view(), tensor.view(), shift) {}
  explicit OnDevice(const Strided& strided, std::int64_t shift = 0)
      : OnDevice(strided.buffer.view(), strided.view, shift) {}
  OnDevice(OnDevice&&) = delete;
  ~OnDevice() {
    std::vector<std::uint8_t> all(static_cast<std::size_t>(memory_.size()));
    cuda::copy_to_host(device_context(), all.data(), memory_.data(), memory_.size());
    cuda::synchronize(device_context());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool inside =
          static_cast<std::int64_t>(i) >= front_ && static_cast<std::int64_t>(i) < front_ + bytes_;
      if (!inside && all[i] != kGuardByte) {
        ADD_FAILURE() << "byte " << static_cast<std::int64_t>(i) - front_ << " of a device tensor of "
                      << bytes_ << " bytes was overwritten";
        return;
      }
    }
  }

  operator TensorView() const { return view_; }
  const TensorView& view() const { return view_; }
  void upload(const TensorView& buffer) const {
    cuda::copy_to_device(device_context(), memory_.data() + front_, buffer.data, bytes_);
    cuda::synchronize(device_context());
  }
  /// The whole buffer's contents now, and the view into it.
  Strided download() const {
    Strided result{like(host_), view_};
    cuda::copy_to_host(device_context(), result.buffer.as<std::byte>(), memory_.data() + front_, bytes_);
    cuda::synchronize(device_context());
    const auto offset = view_.as<std::byte>() - (memory_.data() + front_);
    result.view.data = result.buffer.as<std::byte>() + offset;
    result.view.device = {};
    return result;
  }

 private:
  static constexpr std::uint8_t kGuardByte = 0xa5;
  static Tensor like(const TensorView& view) {
    return view.rank == 1 ? Tensor(view.dtype, {view.size(0)})
                          : Tensor(view.dtype, {view.size(0), view.size(1)});
  }

  TensorView host_;
  std::int64_t bytes_;
  std::int64_t front_;
  cuda::DeviceBuffer memory_;
  TensorView view_;
};

}  // namespace fathom
