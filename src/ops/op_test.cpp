#include "ops/op_test.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>

#include "ops/elements.hpp"

namespace fathom {
namespace {
constexpr std::int64_t kGuard = 256;
constexpr int kGuardByte = 0xa5;

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f8e4m3;
}

// Visits all coordinates of a view in row-major order with the element's offset.
template <class F>
void for_each(const TensorView& t, F visit) {
  std::array<std::int64_t, kMaxRank> at{};
  for (std::int64_t n = t.count(); n-- > 0;) {
    std::int64_t offset = 0;
    for (int a = 0; a < t.rank; ++a) offset += at[static_cast<std::size_t>(a)] * t.step(a);
    visit(offset, at);
    for (int a = t.rank; a-- > 0;) {
      if (++at[static_cast<std::size_t>(a)] < t.size(a)) break;
      at[static_cast<std::size_t>(a)] = 0;
    }
  }
}

double element(const TensorView& t, std::int64_t offset) {
  switch (t.dtype) {
    case DType::i32:
      return t.as<std::int32_t>()[offset];
    case DType::i64:
      return static_cast<double>(t.as<std::int64_t>()[offset]);
    case DType::u8:
      return t.as<std::uint8_t>()[offset];
    default:
      return static_cast<double>(load_element(t.data, t.dtype, offset));
  }
}

std::vector<double> elements(const TensorView& t) {
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(t.count()));
  for_each(t, [&](std::int64_t offset, const auto&) { values.push_back(element(t, offset)); });
  return values;
}

std::string coordinate(const TensorView& t, std::size_t index) {
  std::string text;
  auto rest = static_cast<std::int64_t>(index);
  for (int a = t.rank; a-- > 0;) {
    text = std::to_string(rest % t.size(a)) + (text.empty() ? "" : ",") + text;
    rest /= t.size(a);
  }
  return "[" + text + "]";
}

void compare(const TensorView& got, const TensorView& expected, const auto& bound_of) {
  ASSERT_EQ(shape_string(got), shape_string(expected));
  const std::vector<double> g = elements(got);
  const std::vector<double> e = elements(expected);
  double worst = 0;
  std::size_t where = 0;
  std::size_t failures = 0;
  bool all_zero = true;
  for (std::size_t i = 0; i < g.size(); ++i) {
    all_zero = all_zero && e[i] == 0;
    if (g[i] == e[i]) continue;  // also equal infinities
    const double bound = bound_of(i, e[i]);
    const double excess = std::abs(g[i] - e[i]) / std::max(bound, std::numeric_limits<double>::min());
    if (excess <= 1) continue;
    ++failures;
    if (!(excess <= worst)) {  // also NaN
      worst = std::isnan(excess) ? std::numeric_limits<double>::infinity() : excess;
      where = i;
    }
  }
  EXPECT_EQ(failures, 0u) << failures << " of " << g.size() << " elements are off; worst at "
                          << coordinate(got, where) << ": got " << g[where] << ", expected " << e[where]
                          << ", " << worst << " x the bound";
  EXPECT_FALSE(all_zero && e.size() > 1) << "the expectation is all zeros";
}
}  // namespace

Tensor::Tensor(DType dtype, std::initializer_list<std::int64_t> shape) {
  view_ = TensorView::contiguous(nullptr, dtype, shape);
  buffer_ = Buffer(view_.count() * size_of(dtype) + 2 * kGuard);
  std::memset(buffer_.data(), kGuardByte, static_cast<std::size_t>(buffer_.size()));
  view_.data = buffer_.data() + kGuard;
}

Tensor::Tensor(Tensor&& other) noexcept : buffer_(std::move(other.buffer_)), view_(other.view_) {
  other.view_ = {};
}

Tensor::~Tensor() {
  if (view_.data == nullptr) return;
  const auto* bytes = reinterpret_cast<const unsigned char*>(buffer_.data());
  const std::int64_t size = buffer_.size();
  for (std::int64_t i = 0; i < kGuard; ++i) {
    if (bytes[i] != kGuardByte || bytes[size - 1 - i] != kGuardByte) {
      ADD_FAILURE() << "a write outside of a tensor of shape " << shape_string(view_);
      return;
    }
  }
}

double Tensor::operator[](std::int64_t i) const { return element(view_, i); }

void Tensor::set(std::int64_t i, double value) {
  switch (view_.dtype) {
    case DType::i32:
      as<std::int32_t>()[i] = static_cast<std::int32_t>(value);
      break;
    case DType::i64:
      as<std::int64_t>()[i] = static_cast<std::int64_t>(value);
      break;
    case DType::u8:
      as<std::uint8_t>()[i] = static_cast<std::uint8_t>(value);
      break;
    default:
      store_element(view_.data, view_.dtype, i, static_cast<float>(value));
  }
}

Tensor poisoned(DType dtype, std::initializer_list<std::int64_t> shape) {
  Tensor tensor(dtype, shape);
  // 0xff bytes are NaN in every float dtype.
  std::memset(tensor.view().data, is_float(dtype) ? 0xff : 0x7b,
              static_cast<std::size_t>(tensor.count() * size_of(dtype)));
  return tensor;
}

Tensor Random::normal(DType dtype, std::initializer_list<std::int64_t> shape, double deviation) {
  Tensor tensor(dtype, shape);
  std::normal_distribution<double> distribution(0, deviation);
  for (std::int64_t i = 0; i < tensor.count(); ++i) tensor.set(i, distribution(engine_));
  return tensor;
}

Tensor Random::uniform(DType dtype, std::initializer_list<std::int64_t> shape, double low, double high) {
  Tensor tensor(dtype, shape);
  std::uniform_real_distribution<double> distribution(low, high);
  for (std::int64_t i = 0; i < tensor.count(); ++i) tensor.set(i, distribution(engine_));
  return tensor;
}

void expect_close(const TensorView& got, const TensorView& expected, Tolerance tolerance) {
  compare(got, expected,
          [&](std::size_t, double e) { return tolerance.absolute + tolerance.relative * std::abs(e); });
}

void expect_within(const TensorView& got, const TensorView& expected, const TensorView& bound) {
  const std::vector<double> bounds = elements(bound);
  ASSERT_EQ(shape_string(bound), shape_string(expected));
  compare(got, expected, [&](std::size_t i, double) { return bounds[i]; });
}

void expect_same_bytes(const TensorView& got, const TensorView& expected) {
  ASSERT_EQ(got.dtype, expected.dtype);
  ASSERT_EQ(shape_string(got), shape_string(expected));
  const auto bytes = static_cast<std::size_t>(size_of(got.dtype));
  // What is equal as a whole needs no look at every element: repeats of large results take most of a test's
  // time there.
  if (got.count() > 0 && got.is_contiguous() && expected.is_contiguous() &&
      std::memcmp(got.data, expected.data, static_cast<std::size_t>(got.count()) * bytes) == 0) {
    return;
  }
  std::vector<std::int64_t> offsets;
  for_each(expected, [&](std::int64_t offset, const auto&) { offsets.push_back(offset); });
  std::size_t i = 0;
  for_each(got, [&](std::int64_t offset, const auto&) {
    const auto* g = got.as<std::byte>() + static_cast<std::size_t>(offset) * bytes;
    const auto* e = expected.as<std::byte>() + static_cast<std::size_t>(offsets[i]) * bytes;
    if (!::testing::Test::HasNonfatalFailure() && std::memcmp(g, e, bytes) != 0) {
      ADD_FAILURE() << "bytes differ at " << coordinate(got, i) << ": " << element(got, offset) << " and "
                    << element(expected, offsets[i]);
    }
    ++i;
  });
}

double calc_diff(const TensorView& x, const TensorView& y) {
  const std::vector<double> a = elements(x);
  const std::vector<double> b = elements(y);
  EXPECT_EQ(a.size(), b.size());
  double dot = 0;
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    dot += a[i] * b[i];
    squares += a[i] * a[i] + b[i] * b[i];
  }
  return squares == 0 ? 0 : 1 - 2 * dot / squares;
}

const Context& test_context(int threads) {
  static std::map<int, std::unique_ptr<Context>> contexts;
  auto& context = contexts[threads];
  if (!context) context = std::make_unique<Context>(ContextOptions{.threads = threads});
  return *context;
}

const Context& forced_context(const std::string& implementation) {
  static std::map<std::string, std::unique_ptr<Context>> contexts;
  auto& context = contexts[implementation];
  if (!context) {
    context = std::make_unique<Context>(ContextOptions{.threads = 2, .force_implementation = implementation});
  }
  return *context;
}

}  // namespace fathom
