#include "bench.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <random>
#include <vector>

#include "fathom/core/error.hpp"
#include "ops/elements.hpp"

namespace fathom {
namespace {

thread_local const Context* t_context = nullptr;  // whose bench is being made
bool g_hot_weights = false;                       // set once by the program, before the first bench is made

constexpr std::int64_t kAlignment = 256;  // as on a device

bool on_device() { return t_context != nullptr && t_context->device().kind != DeviceKind::host; }

}  // namespace

void bench_at_least(std::string_view op, std::string_view key, std::int64_t value, std::int64_t least) {
  if (value >= least) return;
  throw InvalidArgument("bench: '" + std::string(key) + "' of " + std::string(op) + " must be at least " +
                        std::to_string(least) + ", got " + std::to_string(value));
}

namespace detail {
void check_numbers(std::string_view problem) {
  constexpr std::int64_t kLargest = std::int64_t{1} << 40;
  const std::string_view op = problem.substr(0, problem.find(':'));
  for (const auto& [key, value] : split_problem(op, problem)) {
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc{} || end != value.data() + value.size()) continue;  // a name
    if (number >= 0 && number <= kLargest) continue;
    throw InvalidArgument("bench: '" + key + "' of " + std::string(op) + " must be from 0 to " +
                          std::to_string(kLargest) + ", got " + value);
  }
}

BenchContext::BenchContext(const Context& context) : before_(t_context) { t_context = &context; }
BenchContext::~BenchContext() { t_context = before_; }
}  // namespace detail

BenchBuffer::BenchBuffer(std::int64_t bytes) : size_(bytes) {
  if (on_device()) {
    context_ = *t_context;
  } else {
    host_.emplace(bytes + kAlignment);
  }
}

std::byte* BenchBuffer::host_data() const {
  const auto address = reinterpret_cast<std::uintptr_t>(host_->data());
  return host_->data() + (kAlignment - address % kAlignment) % kAlignment;
}

TensorView BenchBuffer::view_of_host(DType dtype, std::initializer_list<std::int64_t> shape) const {
  const TensorView view = TensorView::contiguous(host_data(), dtype, shape);
  if (view.count() > size_ / size_of(dtype)) {
    throw InvalidArgument("BenchBuffer: " + shape_string(view) + " does not fit in " + std::to_string(size_) +
                          " bytes");
  }
  return view;
}

// The tensor's memory, with all that was written.
std::byte* BenchBuffer::ready() {
  if (!context_) return host_data();
  if (!device_) device_.emplace(*context_, size_);
  if (written_) {
    cuda::copy_to_device(*context_, device_->data(), host_data(), size_);
    cuda::synchronize(*context_);
    written_ = false;
  }
  return device_->data();
}

std::byte* BenchBuffer::data() {
  if (!host_) {
    host_.emplace(size_ + kAlignment);
    if (device_) {
      cuda::copy_to_host(*context_, host_data(), device_->data(), size_);
      cuda::synchronize(*context_);
    }
  }
  written_ = true;
  return host_data();
}

TensorView BenchBuffer::view(DType dtype, std::initializer_list<std::int64_t> shape) {
  ready();
  return context_ ? device_->view(dtype, shape) : view_of_host(dtype, shape);
}

TensorView BenchBuffer::place(TensorView view) {
  view.data = ready();
  if (context_) view.device = context_->device();
  return view;
}

TensorView BenchBuffer::host_view(DType dtype, std::initializer_list<std::int64_t> shape) {
  data();
  return view_of_host(dtype, shape);
}

void BenchBuffer::repeat(std::span<const std::byte> part) {
  const auto length = static_cast<std::int64_t>(part.size());
  const auto fill = [&](std::byte* to, const auto& copy_first, const auto& copy) {
    std::int64_t done = std::min(length, size_);
    copy_first(to, part.data(), done);
    // What is there doubles: few copies, also of a short part.
    for (; done < size_; done += std::min(done, size_ - done)) {
      copy(to + done, to, std::min(done, size_ - done));
    }
  };
  if (!context_) {
    const auto copy = [](std::byte* to, const std::byte* from, std::int64_t bytes) {
      if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
    };
    return fill(host_data(), copy, copy);
  }
  fill(
      ready(), [&](auto* to, auto* from, std::int64_t n) { cuda::copy_to_device(*context_, to, from, n); },
      [&](auto* to, auto* from, std::int64_t n) { cuda::copy_on_device(*context_, to, from, n); });
  cuda::synchronize(*context_);
}

std::shared_ptr<BenchBuffer> bench_buffer(std::int64_t bytes) { return std::make_shared<BenchBuffer>(bytes); }

std::shared_ptr<BenchBuffer> bench_zeros(std::int64_t bytes) {
  auto buffer = bench_buffer(bytes);
  const std::vector<std::byte> zeros(1 << 16);
  buffer->repeat(zeros);
  return buffer;
}

std::shared_ptr<BenchBuffer> bench_normal(DType dtype, std::initializer_list<std::int64_t> shape,
                                          double deviation) {
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f8e4m3)
    throw InvalidArgument("bench: random tensors are f32, bf16 or f8e4m3, not " +
                          std::string(to_string(dtype)));
  const std::int64_t count = TensorView::contiguous(nullptr, dtype, shape).count();
  auto buffer = bench_buffer(count * size_of(dtype));
  // Fresh values for the first part only, then copies of it: a gigabyte of random numbers takes half a
  // minute. The part's length is odd, so that rows do not repeat one another.
  const std::int64_t fresh = std::min<std::int64_t>(count, (1 << 18) + 1);
  std::vector<std::byte> part(static_cast<std::size_t>(fresh * size_of(dtype)));
  std::mt19937_64 engine(static_cast<std::uint64_t>(count));
  std::normal_distribution<float> normal(0, static_cast<float>(deviation));
  for (std::int64_t i = 0; i < fresh; ++i) store_element(part.data(), dtype, i, normal(engine));
  if (count > 0) buffer->repeat(part);
  return buffer;
}

std::shared_ptr<BenchBuffer> bench_packed_scales(std::int64_t words) {
  auto buffer = bench_buffer(words * 4);
  std::vector<std::byte> part(static_cast<std::size_t>(std::min<std::int64_t>(words * 4, (1 << 16) + 4)));
  std::mt19937 engine(static_cast<unsigned>(words));
  for (std::byte& exponent : part) exponent = static_cast<std::byte>(120 + engine() % 8);
  if (words > 0) buffer->repeat(part);
  return buffer;
}

void use_hot_weights() { g_hot_weights = true; }

std::int64_t cold_copies(std::int64_t bytes) {
  if (g_hot_weights || on_device() || bytes == 0) return 1;
  const std::int64_t cache = std::max<std::int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), 32 << 20);
  return std::max<std::int64_t>(1, (4 * cache + bytes - 1) / bytes);
}

}  // namespace fathom
