// What an op's bench states: its work, and one run of it. `fathom bench` measures.
#pragma once
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "fathom/core/buffer.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/cuda/device.hpp"

namespace fathom {

/// The operands of a plain matrix product, out[m, n] = a[m, k] * b[n, k]^T with scales if there are any, so
/// that its result can be checked and another library's product set beside it.
struct BenchProduct {
  TensorView a;
  TensorView a_scale;
  TensorView b;
  TensorView b_scale;
  TensorView out;
};

struct BenchCase {
  std::string problem;  // canonical spelling
  double bytes = 0;     // that one run must move: each input read once, each output written once
  double flops = 0;     // arithmetic of one run; 0 if that is no useful figure
  /// What the flops multiply: f8e4m3 where operands reach the tensor cores in FP8, whatever the op is called.
  DType arithmetic = DType::bf16;
  /// Runs once. The argument counts runs: a bench whose weights must come from memory rotates copies by it.
  std::function<void(std::int64_t)> run;
  std::optional<BenchProduct> product{};  // of every run; none if results add up or weights rotate
};

/// A tensor of a bench, on 256 bytes: on the context's device, filled on the host. Shared with the closure of
/// the bench.
class BenchBuffer {
 public:
  /// For the context whose bench is being made. Contents are not initialised.
  explicit BenchBuffer(std::int64_t bytes);

  std::int64_t size() const { return size_; }
  /// The contents on the host, to be written before the next view().
  std::byte* data();
  /// A contiguous view of the front, on the context's device. What was written through data() is there.
  TensorView view(DType dtype, std::initializer_list<std::int64_t> shape);
  /// A view of the front that was made for address 0, put in its place.
  TensorView place(TensorView view);
  /// As view(), on the host: for another op that prepares the contents with a host's context.
  TensorView host_view(DType dtype, std::initializer_list<std::int64_t> shape);
  /// Fills the buffer with copies of `part`.
  void repeat(std::span<const std::byte> part);

 private:
  std::byte* ready();
  std::byte* host_data() const;
  TensorView view_of_host(DType dtype, std::initializer_list<std::int64_t> shape) const;

  std::int64_t size_;
  std::optional<Context> context_;  // of the device; none: the host
  std::optional<Buffer> host_;
  std::optional<cuda::DeviceBuffer> device_;
  bool written_ = false;  // host_ is newer than device_
};

std::shared_ptr<BenchBuffer> bench_buffer(std::int64_t bytes);
std::shared_ptr<BenchBuffer> bench_zeros(std::int64_t bytes);
/// Normal random values. Throws InvalidArgument unless the dtype is f32, bf16 or f8e4m3.
std::shared_ptr<BenchBuffer> bench_normal(DType dtype, std::initializer_list<std::int64_t> shape,
                                          double deviation = 1);
/// Words of four UE8M0 scales between 2^-7 and 1.
std::shared_ptr<BenchBuffer> bench_packed_scales(std::int64_t words);
/// How many copies of `bytes` no cache of this machine holds together (at least 1). Always 1 after
/// use_hot_weights(), and on a device, where the caches are emptied before every run.
std::int64_t cold_copies(std::int64_t bytes);
void use_hot_weights();
/// Throws InvalidArgument if a number of the problem that a bench divides by or draws from is less than
/// `least`.
void bench_at_least(std::string_view op, std::string_view key, std::int64_t value, std::int64_t least);

/// The bench of a problem string, with tensors on the device of `context`, which must outlive it. Throws
/// InvalidArgument if no op has that name.
BenchCase make_bench(std::string_view problem, const Context& context);

namespace detail {
/// Throws InvalidArgument if a number of the problem is below 0 or above 2^40: sums and products of such
/// sizes stay inside of 64 bits or are refused where tensors are made.
void check_numbers(std::string_view problem);

/// While it lives, benches of this thread make their tensors for `context`.
class BenchContext {
 public:
  explicit BenchContext(const Context& context);
  ~BenchContext();
  BenchContext(const BenchContext&) = delete;
  BenchContext& operator=(const BenchContext&) = delete;

 private:
  const Context* before_;
};
}  // namespace detail

}  // namespace fathom
