#include "accuracy.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "ops/elements.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom {
namespace {

constexpr std::int64_t kRows = 8;
constexpr std::int64_t kColumnBlock = 128;
constexpr std::int64_t kColumnBlocks = 8;

// Up to `count` of [0, size), evenly spread, the first and the last among them.
std::vector<std::int64_t> spread(std::int64_t size, std::int64_t count) {
  count = std::min(size, count);
  std::vector<std::int64_t> places;
  for (std::int64_t i = 0; i < count; ++i) {
    places.push_back(count == 1 ? 0 : i * (size - 1) / (count - 1));
  }
  return places;
}

// Rows of a tensor of the device, on the host; the view's rows are where they were.
class HostRows {
 public:
  HostRows(const TensorView& tensor, const Context& context) : context_(context), view_(tensor) {
    std::int64_t last = 0;
    for (int axis = 0; axis < tensor.rank; ++axis) last += (tensor.size(axis) - 1) * tensor.step(axis);
    bytes_.resize(static_cast<std::size_t>((last + 1) * size_of(tensor.dtype)));
    view_.data = bytes_.data();
    view_.device = {};
    from_ = tensor.as<std::byte>();
  }
  void fetch_all() { copy(0, static_cast<std::int64_t>(bytes_.size())); }
  /// Of a tensor whose rows lie behind one another.
  void fetch(std::int64_t begin, std::int64_t end) {
    const std::int64_t row = view_.step(0) * size_of(view_.dtype);
    copy(begin * row, std::min(end * row, static_cast<std::int64_t>(bytes_.size())));
  }
  const TensorView& view() const { return view_; }

 private:
  void copy(std::int64_t begin, std::int64_t end) {
    cuda::copy_to_host(context_, bytes_.data() + begin, from_ + begin, end - begin);
  }
  const Context& context_;
  TensorView view_;
  std::vector<std::byte> bytes_;
  const std::byte* from_;
};

// A row as double; scaled by group if there are scales.
void dequantise(const TensorView& values, std::int64_t row, const TensorView& scale, std::int64_t scale_row,
                std::vector<double>& out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto column = static_cast<std::int64_t>(i);
    const double factor =
        scale.given() ? static_cast<double>(scale_at(scale, scale_row, column / kScaleGroup)) : 1.0;
    out[i] = factor * static_cast<double>(at(values, row, column));
  }
}

}  // namespace

Accuracy check_product(const BenchProduct& product, const Context& context) {
  const std::int64_t n = product.b.size(0);
  const auto k = static_cast<std::size_t>(product.a.size(1));
  Accuracy result;
  if (product.a.size(0) == 0 || n == 0 || k == 0) return result;
  const std::vector<std::int64_t> rows = spread(product.a.size(0), kRows);
  std::vector<std::int64_t> columns;
  const std::int64_t blocks = (n + kColumnBlock - 1) / kColumnBlock;
  HostRows a(product.a, context);
  HostRows b(product.b, context);
  HostRows out(product.out, context);
  for (const std::int64_t row : rows) {
    a.fetch(row, row + 1);
    out.fetch(row, row + 1);
  }
  for (const std::int64_t block : spread(blocks, kColumnBlocks)) {
    const std::int64_t end = std::min(n, (block + 1) * kColumnBlock);
    b.fetch(block * kColumnBlock, end);
    for (std::int64_t j = block * kColumnBlock; j < end; ++j) columns.push_back(j);
  }
  const bool scaled = product.a_scale.given();
  std::vector<HostRows> scales;
  for (const TensorView& scale : {product.a_scale, product.b_scale}) {
    if (scaled) scales.emplace_back(scale, context).fetch_all();
  }
  cuda::synchronize(context);
  const TensorView a_scale = scaled ? scales[0].view() : TensorView{};
  const TensorView b_scale = scaled ? scales[1].view() : TensorView{};
  const std::int64_t rows_per_scale = scaled && b_scale.size(0) == n ? 1 : kScaleGroup;

  std::vector<std::vector<double>> left(rows.size(), std::vector<double>(k));
  for (std::size_t i = 0; i < rows.size(); ++i) dequantise(a.view(), rows[i], a_scale, rows[i], left[i]);
  const bool rounds = product.out.dtype == DType::bf16;
  std::mutex mutex;
  double dot = 0;
  double squares = 0;
  context.parallel_for(static_cast<std::int64_t>(columns.size()), 8,
                       [&](std::int64_t begin, std::int64_t end) {
                         std::vector<double> right(k);
                         double dot_here = 0;
                         double squares_here = 0;
                         double bound_here = 0;
                         for (std::int64_t c = begin; c < end; ++c) {
                           const std::int64_t column = columns[static_cast<std::size_t>(c)];
                           dequantise(b.view(), column, b_scale, column / rows_per_scale, right);
                           for (std::size_t i = 0; i < rows.size(); ++i) {
                             double sum = 0;
                             double magnitude = 0;
                             for (std::size_t j = 0; j < k; ++j) {
                               const double term = left[i][j] * right[j];
                               sum += term;
                               magnitude += std::abs(term);
                             }
                             const double got = static_cast<double>(at(out.view(), rows[i], column));
                             dot_here += got * sum;
                             squares_here += got * got + sum * sum;
                             const double error = std::abs(got - sum) - (rounds ? 0x1p-8 * std::abs(sum) : 0);
                             if (std::isnan(error)) {
                               bound_here = std::numeric_limits<double>::infinity();
                             } else if (error > 0) {
                               bound_here = std::max(bound_here, error / magnitude);
                             }
                           }
                         }
                         const std::lock_guard lock(mutex);
                         dot += dot_here;
                         squares += squares_here;
                         result.bound = std::max(result.bound, bound_here);
                       });
  result.rows = static_cast<std::int64_t>(rows.size());
  result.columns = static_cast<std::int64_t>(columns.size());
  result.calc_diff = squares == 0 ? 0 : 1 - 2 * dot / squares;  // NaN stays NaN
  return result;
}

}  // namespace fathom
