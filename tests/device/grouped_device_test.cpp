// Grouped matrix products on CUDA tensors against the CPU's on host copies: every implementation, every
// layout.
#include <algorithm>
#include <array>
#include <optional>
#include <random>

#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "on_device.hpp"
#include "ops/grouped_test.hpp"
#include "ops/sm90_grouped.hpp"
#include "ops/tile_queues.hpp"

namespace fathom {
namespace {

constexpr GroupLayout kLayouts[] = {GroupLayout::contiguous, GroupLayout::offsets, GroupLayout::masked};

std::int64_t fresh_seed() { return std::random_device{}() & 0x3fffffff; }

const Context& host() {
  static const Context context = [] {
    ContextOptions options;
    options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    return Context(options);
  }();
  return context;
}

struct Op {
  std::string_view name;
  DType element;
};
constexpr Op kOps[] = {{"m_grouped_fp8_gemm_nt", DType::f8e4m3}, {"m_grouped_bf16_gemm_nt", DType::bf16}};

struct Operands {
  TensorView a, a_scale;
  std::span<const TensorView> b, b_scale;
};

void call(const Op& op, const Operands& in, const GroupedRows& rows, const TensorView& out,
          const Context& context) {
  if (op.element == DType::f8e4m3) {
    m_grouped_fp8_gemm_nt(
        {.a = in.a, .a_scale = in.a_scale, .b = in.b, .b_scale = in.b_scale, .rows = rows, .out = out},
        context);
  } else {
    m_grouped_bf16_gemm_nt({.a = in.a, .b = in.b, .rows = rows, .out = out}, context);
  }
}

// A matrix of all rows as the layout wants it, whatever its strides.
TensorView as_layout(const GroupedCase& c, TensorView rows) {
  if (c.shape.layout != GroupLayout::masked) return rows;
  rows.rank = 3;
  rows.shape = {c.groups, c.shape.rows, rows.size(1)};
  rows.stride = {c.shape.rows * rows.step(0), rows.step(0), rows.step(1)};
  return rows;
}

GroupedRows index_rows(GroupLayout layout, const TensorView& index, std::int64_t expected) {
  GroupedRows rows{.expected_m = expected};
  (layout == GroupLayout::contiguous ? rows.row_to_group
   : layout == GroupLayout::offsets  ? rows.offsets
                                     : rows.masked_m) = index;
  return rows;
}

// How the operands lie on the device.
struct Placement {
  std::int64_t padding = 0;  // elements after every row of a and b
  bool packed_scale = false;
  bool column_scale = false;
  bool reversed = false;  // the weights of the last group first: no stack
};

// A problem on the device, and its operands on the host.
class DeviceCase {
 public:
  DeviceCase(const Op& op, GroupedShape shape, std::int64_t groups, DType out, std::int64_t seed,
             const Placement& placement = {})
      : op_(op),
        host_(op.element, op.element, out, shape, groups, seed),
        placement_(placement),
        a_(strided(host_.a, placement.padding)),
        b_(strided_matrices(host_.b, placement.padding)),
        a_scale_(a_scales()),
        device_a_(a_),
        device_b_(b_.buffer.view(), b_.view),
        device_a_scale_(a_scale_),
        device_b_scale_(host_.b_scale),
        device_index_(host_.index),
        weights_(split_groups(device_b_)),
        scales_(split_groups(device_b_scale_)) {
    if (placement.reversed) std::ranges::reverse(weights_);
  }

  const GroupedCase& host() const { return host_; }
  Operands operands() const {
    return {as_layout(host_, device_a_), as_layout(host_, device_a_scale_), weights_, scales_};
  }
  GroupedRows rows(std::int64_t expected = 0) const {
    return index_rows(host_.shape.layout, device_index_, expected);
  }
  const OnDevice& index() const { return device_index_; }

  // out is left with what it held where no row belongs to a group.
  void run(const TensorView& out, const Context& context, std::int64_t expected = 0) const {
    call(op_, operands(), rows(expected), as_layout(host_, out), context);
  }
  Tensor poisoned_out() const { return poisoned(host_.out.view().dtype, {all_rows(), host_.shape.n}); }
  std::int64_t all_rows() const { return host_.blocks * host_.shape.rows; }

  // Every row of a group within the bound of its sum of magnitudes, every other as it was.
  void check(const Strided& got, const Strided& before, const std::string& implementation) {
    const std::int64_t n = host_.shape.n;
    Tensor expected(DType::f32, {all_rows(), n});
    Tensor magnitude(DType::f32, {all_rows(), n});
    on_host(host_.a, host_.a_scale, expected);
    for (Tensor* values : {&host_.a, &host_.b}) {
      const std::int64_t bytes = size_of(values->view().dtype);
      for (std::int64_t i = 0; i < values->count(); ++i)
        values->as<std::uint8_t>()[i * bytes + bytes - 1] &= 0x7f;
    }
    on_host(host_.a, host_.a_scale, magnitude);
    const std::int64_t k = host_.shape.k;
    const double error =
        implementation == "cuda:simt"
            ? static_cast<double>(std::min<std::int64_t>(k, 128) + (k + 127) / 128 + 8) * 0x1p-23
            : 0x1p-11;  // products are cut to 13 bits below the largest of 32; 2^-11.8 has been seen
    const double rounding = got.view.dtype == DType::bf16 ? 0x1p-8 : 0;
    for (std::int64_t r = 0; r < all_rows(); ++r) {
      const std::int64_t g = host_.group_of(r);
      for (std::int64_t j = 0; j < got.buffer.view().size(1); ++j) {
        const std::int64_t at = r * got.buffer.view().size(1) + j;
        if (g < 0 || j >= n) {
          const bool same =
              std::memcmp(byte(got.buffer, at), byte(before.buffer, at), element_bytes(got.buffer)) == 0;
          ASSERT_TRUE(same) << "row " << r << " column " << j << " of group " << g << " was overwritten";
          continue;
        }
        const double want = expected[r * n + j];
        const double bound = error * magnitude[r * n + j] + rounding * std::abs(want) + 0x1p-120;
        ASSERT_LE(std::abs(got.buffer[at] - want), bound) << "row " << r << " column " << j << " of group "
                                                          << g << ": " << got.buffer[at] << " for " << want;
      }
    }
  }

 private:
  static std::size_t element_bytes(const Tensor& t) {
    return static_cast<std::size_t>(size_of(t.view().dtype));
  }
  static const std::byte* byte(const Tensor& t, std::int64_t i) {
    return t.as<std::byte>() + i * size_of(t.view().dtype);
  }
  void on_host(const Tensor& a, const Tensor& a_scale, Tensor& out) const {
    std::vector<TensorView> weights = split_groups(host_.b);
    if (placement_.reversed) std::ranges::reverse(weights);
    call(op_, {host_.of_rows(a), host_.of_rows(a_scale), weights, host_.scales}, host_.rows(),
         host_.of_rows(out), fathom::host());
  }
  static Strided strided_matrices(const Tensor& b, std::int64_t padding) {
    const TensorView& v = b.view();
    const TensorView flat = TensorView::contiguous(v.data, v.dtype, {v.size(0) * v.size(1), v.size(2)});
    Tensor buffer = poisoned(v.dtype, {flat.size(0), v.size(2) + padding});
    const std::int64_t bytes = size_of(v.dtype);
    for (std::int64_t i = 0; i < flat.size(0); ++i) {
      std::memcpy(buffer.as<std::byte>() + i * (v.size(2) + padding) * bytes,
                  flat.as<std::byte>() + i * v.size(2) * bytes, static_cast<std::size_t>(v.size(2) * bytes));
    }
    TensorView view = v;
    view.data = buffer.view().data;
    view.stride = {v.size(1) * (v.size(2) + padding), v.size(2) + padding, 1};
    return {std::move(buffer), view};
  }
  // Row-major; or packed exponents, or columns, of all rows together. The host's become powers of two where
  // packed.
  Strided a_scales() {
    const std::int64_t rows = all_rows();
    const std::int64_t words = (host_.k_groups + 3) / 4;
    if (placement_.packed_scale) {
      Tensor packed(DType::i32, {rows, words});
      for (std::int64_t i = 0; i < packed.count(); ++i) packed.as<std::uint32_t>()[i] = 0x7f7f7f7fu;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < host_.k_groups; ++c) {
          const auto exponent = static_cast<int>(host_.random.integer(120, 130));
          host_.a_scale.set(r * host_.k_groups + c, std::ldexp(1.0, exponent - 127));
          packed.as<std::uint8_t>()[(r * words + c / 4) * 4 + c % 4] = static_cast<std::uint8_t>(exponent);
        }
      }
      TensorView view = packed.view();
      return {std::move(packed), view};
    }
    return placement_.column_scale ? column_major(host_.a_scale, rows + 3) : strided(host_.a_scale, 0);
  }

  Op op_;
  GroupedCase host_;
  Placement placement_;
  Strided a_;
  Strided b_;
  Strided a_scale_;
  OnDevice device_a_;
  OnDevice device_b_;
  OnDevice device_a_scale_;
  OnDevice device_b_scale_;
  OnDevice device_index_;
  std::vector<TensorView> weights_;
  std::vector<TensorView> scales_;
};

// Counts of all kinds: none, one, a few, many.
std::int64_t random_count(Random& random, std::int64_t most) {
  switch (random.integer(0, 4)) {
    case 0:
      return 0;
    case 1:
      return std::min<std::int64_t>(most, random.integer(1, 9));
    case 2:
      return std::min<std::int64_t>(most, random.integer(1, 40));
    default:
      return random.integer(0, most);
  }
}

GroupedShape random_shape(Random& random, GroupLayout layout, std::int64_t groups, std::int64_t n,
                          std::int64_t k) {
  GroupedShape shape{.layout = layout, .n = n, .k = k};
  const std::int64_t most = random.integer(1, random.integer(0, 3) == 0 ? 300 : 60);
  if (layout == GroupLayout::masked) {
    shape.rows = most;
    for (std::int64_t g = 0; g < groups; ++g)
      shape.index.push_back(static_cast<int>(random_count(random, most)));
    return shape;
  }
  const bool padded = random.integer(0, 1) == 1;  // to 128 rows, or a few unused ones
  std::vector<int> offsets{static_cast<int>(random.integer(0, 5))};
  std::vector<int> ids(static_cast<std::size_t>(offsets[0]), -1);
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t count = random_count(random, most);
    ids.insert(ids.end(), static_cast<std::size_t>(count), static_cast<int>(g));
    offsets.push_back(static_cast<int>(offsets.back() + count));
    const std::size_t end = padded ? (ids.size() + 127) / 128 * 128 : ids.size();
    ids.resize(end, -1);
  }
  ids.resize(ids.size() + static_cast<std::size_t>(random.integer(0, 9)), -1);
  if (layout == GroupLayout::offsets) {
    shape.rows = offsets.back() + random.integer(0, 9);
    shape.index = offsets;
    return shape;
  }
  if (random.integer(0, 3) == 0) std::ranges::shuffle(ids, random.engine());
  shape.rows = static_cast<std::int64_t>(ids.size());
  shape.index = ids;
  return shape;
}

// False if the implementation declines the problem.
bool check(const Op& op, const std::string& implementation, GroupLayout layout, std::int64_t seed) {
  Random random(seed);
  const bool any = implementation == "cuda:simt";
  const std::int64_t unit = op.element == DType::bf16 ? 8 : 16;
  const std::int64_t groups = random.integer(1, random.integer(0, 3) == 0 ? 70 : 6);
  const std::int64_t n = random.integer(0, 1) == 0 ? 64 * random.integer(1, 4) : random.integer(1, 300);
  const std::int64_t k = any ? random.integer(0, 500) : unit * random.integer(1, 700 / unit);
  const GroupedShape shape = random_shape(random, layout, groups, n, k);
  const DType out = random.integer(0, 1) == 1 ? DType::f32 : DType::bf16;
  const Placement placement{.padding = random.integer(0, 2) == 0 ? (any ? random.integer(1, 9) : unit) : 0,
                            .packed_scale = op.element == DType::f8e4m3 && random.integer(0, 2) == 0,
                            .column_scale = random.integer(0, 2) == 0,
                            .reversed = any && random.integer(0, 2) == 0};
  SCOPED_TRACE(testing::Message() << op.name << " " << implementation << " " << to_string(layout)
                                  << " groups " << groups << " rows " << shape.rows << " n " << n << " k "
                                  << k << " seed " << seed);
  DeviceCase problem(op, shape, groups, out, seed + 1, placement);
  const Strided before = strided(problem.poisoned_out(), random.integer(0, 1) * 8 + random.integer(0, 3) / 3);
  const OnDevice device_out(before);
  try {
    problem.run(device_out, device_context(implementation), random.integer(0, 2) * random.integer(1, 200));
  } catch (const NoImplementation&) {
    return false;
  }
  problem.check(device_out.download(), before, implementation);
  return true;
}

class GroupedOnDevice : public testing::TestWithParam<Op> {};
INSTANTIATE_TEST_SUITE_P(Ops, GroupedOnDevice, testing::ValuesIn(kOps), [](const auto& tested) {
  return std::string(tested.param.element == DType::bf16 ? "Bf16" : "Fp8");
});

TEST_P(GroupedOnDevice, RandomProblems) {
  for (const std::string& implementation : cuda_implementations(GetParam().name)) {
    for (const GroupLayout layout : kLayouts) {
      int ran = 0;
      for (int i = 0; i < 12 && !HasFailure(); ++i)
        ran += check(GetParam(), implementation, layout, fresh_seed());
      EXPECT_TRUE(ran == 12 || HasFailure()) << implementation << " declined " << 12 - ran;
    }
  }
}

TEST_P(GroupedOnDevice, ShapesOfTheHostTests) {
  for (const std::string& implementation : cuda_implementations(GetParam().name)) {
    std::int64_t seed = fresh_seed();
    for (GroupedShape shape : grouped_shapes()) {
      if (implementation != "cuda:simt") shape.k = (shape.k + 15) / 16 * 16;
      SCOPED_TRACE(testing::Message() << implementation << " " << to_string(shape.layout) << " " << shape.rows
                                      << " " << shape.n << " " << shape.k);
      DeviceCase problem(GetParam(), shape, 4, DType::bf16, seed++);
      const Strided before = strided(problem.poisoned_out(), 0);
      const OnDevice out(before);
      problem.run(out, device_context(implementation));
      problem.check(out.download(), before, implementation);
    }
  }
}

// Counts far above the expected value, and so skewed that one group has nearly all rows.
TEST_P(GroupedOnDevice, CountsFarFromTheExpectedOnes) {
  std::vector<int> counts(20, 0);
  counts[0] = 4001;
  counts[7] = 114;
  counts[19] = 1;
  for (const std::string& implementation : cuda_implementations(GetParam().name)) {
    SCOPED_TRACE(implementation);
    DeviceCase problem(GetParam(), {GroupLayout::masked, 4096, 64, 128, counts}, 20, DType::bf16,
                       fresh_seed());
    const Strided before = strided(problem.poisoned_out(), 0);
    for (const std::int64_t expected : {1, 114, 4096}) {
      const OnDevice out(before);
      problem.run(out, device_context(implementation), expected);
      if (expected == 114) {
        problem.check(out.download(), before, implementation);
      } else {
        cuda::synchronize(device_context());
      }
    }
  }
}

// What an index must not hold: nothing hangs, and nothing outside of out is written.
TEST_P(GroupedOnDevice, WrongCountsOffsetsAndIdsAreHarmless) {
  constexpr int kFar = 0x7fffffff;
  const GroupedShape shapes[] = {
      {GroupLayout::masked, 70, 72, 256, {71, -1, kFar, -kFar - 1, 5, 70}},
      {GroupLayout::offsets, 70, 72, 256, {-7, 40, 30, kFar, 20, -kFar - 1, 71}},
      {GroupLayout::contiguous, 9, 72, 256, {0, 6, -2, kFar, -kFar - 1, 5, 3, 100, 1}},
  };
  for (const std::string& implementation : cuda_implementations(GetParam().name)) {
    for (const GroupedShape& shape : shapes) {
      SCOPED_TRACE(implementation + " " + std::string(to_string(shape.layout)));
      GroupedShape valid = shape;
      for (int& value : valid.index) value = shape.layout == GroupLayout::contiguous ? 0 : 70;
      if (shape.layout == GroupLayout::offsets)
        valid.index[0] = 0;  // all rows are somebody's, so none is NaN
      const DeviceCase problem(GetParam(), valid, 6, DType::bf16, fresh_seed());
      problem.index().upload(tensor_of<int>(DType::i32, {std::ssize(shape.index)}, shape.index));
      const OnDevice out(problem.poisoned_out());
      problem.run(out, device_context(implementation));
      const Strided got = out.download();
      const auto written = [&](std::int64_t row) { return !std::isnan(got.buffer[row * 72]); };
      if (shape.layout == GroupLayout::masked) {
        for (const std::int64_t g : {0, 2, 5}) EXPECT_TRUE(written(g * 70) && written(g * 70 + 69)) << g;
        for (const std::int64_t g : {1, 3}) EXPECT_FALSE(written(g * 70)) << g;
      } else if (shape.layout == GroupLayout::contiguous) {
        for (const std::int64_t r : {0, 5, 6, 8}) EXPECT_TRUE(written(r)) << r;
        for (const std::int64_t r : {1, 2, 3, 4, 7}) EXPECT_FALSE(written(r)) << r;
      }
    }
  }
}

// The bytes of the dense product in the class prefill, in every layout and with every expectation, so by
// every kernel.
TEST_P(GroupedOnDevice, BytesAreThoseOfTheDenseProduct) {
  constexpr std::int64_t kN = 200, kK = 1024, kRows = 331;
  const std::vector<int> offsets{0, 1, 1, 20, 60, 331};
  for (const std::string& implementation : cuda_implementations(GetParam().name)) {
    std::vector<int> ids;
    for (int g = 0; g < 5; ++g)
      ids.insert(ids.end(), static_cast<std::size_t>(offsets[g + 1] - offsets[g]), g);
    const std::int64_t seed = fresh_seed();
    DeviceCase by_offsets(GetParam(), {GroupLayout::offsets, kRows, kN, kK, offsets}, 5, DType::f32, seed);
    const OnDevice dense(by_offsets.poisoned_out());
    const Operands in = by_offsets.operands();
    const Context& context = device_context(implementation);
    for (std::size_t g = 0; g < 5; ++g) {
      const std::int64_t begin = offsets[g];
      const std::int64_t end = offsets[g + 1];
      if (GetParam().element == DType::f8e4m3) {
        fp8_gemm_nt({.a = in.a.rows(begin, end),
                     .a_scale = in.a_scale.rows(begin, end),
                     .b = in.b[g],
                     .b_scale = in.b_scale[g],
                     .out = dense.view().rows(begin, end)},
                    context);
      } else {
        bf16_gemm_nt({.a = in.a.rows(begin, end), .b = in.b[g], .out = dense.view().rows(begin, end)},
                     context);
      }
    }
    const Strided expected = dense.download();
    const OnDevice device_ids(tensor_of<int>(DType::i32, {kRows}, ids));
    for (const std::int64_t hint : {0, 4, 14, 24, 50, 100, 200, 5000}) {
      SCOPED_TRACE(testing::Message() << implementation << " expected " << hint);
      const OnDevice out(by_offsets.poisoned_out());
      by_offsets.run(out, context, hint);
      expect_same_bytes(out.download().view, expected.view);
      out.upload(by_offsets.poisoned_out());
      call(GetParam(), in, index_rows(GroupLayout::contiguous, device_ids, hint), out, context);
      expect_same_bytes(out.download().view, expected.view);
      for (std::int64_t g = 0; g < 5; ++g) {  // masked: one group alone, in a block of its own
        const std::int64_t begin = offsets[static_cast<std::size_t>(g)];
        const std::int64_t end = offsets[static_cast<std::size_t>(g) + 1];
        const auto block = [&](const TensorView& t) {
          TensorView view = t.rows(begin, end);
          view.rank = 3;
          view.shape = {1, end - begin, t.size(1)};
          view.stride = {(end - begin) * t.step(0), t.step(0), t.step(1)};
          return view;
        };
        const OnDevice count(tensor_of<int>(DType::i32, {1}, {static_cast<int>(end - begin)}));
        const auto at = static_cast<std::size_t>(g);
        call(GetParam(), {block(in.a), block(in.a_scale), in.b.subspan(at, 1), in.b_scale.subspan(at, 1)},
             index_rows(GroupLayout::masked, count, hint), block(out), context);
      }
      expect_same_bytes(out.download().view, expected.view);
    }
  }
}

// The FP8 products of every group's rows by themselves.
Strided dense_products(const DeviceCase& problem, const Operands& in, const std::vector<int>& ends,
                       const Context& context) {
  const OnDevice dense(problem.poisoned_out());
  for (std::size_t g = 0; g + 1 < ends.size(); ++g) {
    if (ends[g] == ends[g + 1]) continue;
    fp8_gemm_nt({.a = in.a.rows(ends[g], ends[g + 1]),
                 .a_scale = in.a_scale.rows(ends[g], ends[g + 1]),
                 .b = in.b[g],
                 .b_scale = in.b_scale[g],
                 .out = dense.view().rows(ends[g], ends[g + 1])},
                context);
  }
  return dense.download();
}

// By a kernel of the test's choice.
Strided product_of(const Sm90GroupedKernel& kernel, const Sm90GroupedShape& shape, GroupLayout layout,
                   const GroupedRows& rows, const DeviceCase& problem, const Operands& in,
                   const Context& context) {
  const OnDevice out(problem.poisoned_out());
  launch_sm90_grouped(
      kernel, shape, layout,
      {.a = in.a, .a_scale = in.a_scale, .b = in.b, .b_scale = in.b_scale, .rows = rows, .out = out.view()},
      context);
  return out.download();
}

// The same for every tile of many rows, whatever part of it a group has: none of four slabs of 64 rows to
// all.
TEST(GroupedTiles, GiveTheBytesOfTheDenseProduct) {
  constexpr std::int64_t kN = 264;
  const std::vector<int> ends{0, 60, 190, 190, 382, 632, 633, 933, 997};
  const std::int64_t rows = ends.back(), groups = std::ssize(ends) - 1;
  std::vector<int> ids;
  for (int g = 0; g < groups; ++g) ids.insert(ids.end(), static_cast<std::size_t>(ends[g + 1] - ends[g]), g);
  const Context& context = device_context("sm90:wgmma");
  const OnDevice device_ids(tensor_of<int>(DType::i32, {rows}, ids));
  // Fewer blocks of k than a stage of scales holds; two stages of them; one block more.
  for (const auto& [out_type, k] : {std::pair{DType::bf16, 384}, {DType::bf16, 1024}, {DType::f32, 1152}}) {
    const DeviceCase problem(kOps[0], {GroupLayout::offsets, rows, kN, k, ends}, groups, out_type,
                             fresh_seed());
    const Operands in = problem.operands();
    const Strided expected = dense_products(problem, in, ends, context);
    for (const auto& [tile_m, tile_n, stages, cluster] : {std::array{256, 128, 4, 2},
                                                          {256, 128, 4, 1},
                                                          {128, 256, 4, 1},
                                                          {128, 256, 3, 1},
                                                          {128, 192, 5, 1},
                                                          {128, 128, 6, 1},
                                                          {64, 256, 5, 1},
                                                          {64, 128, 8, 1}}) {
      const Sm90GroupedKernel kernel{
          .swapped = 0, .fp8 = 1, .tile_m = tile_m, .tile_n = tile_n, .stages = stages, .cluster_n = cluster};
      for (const GroupLayout layout : {GroupLayout::offsets, GroupLayout::contiguous}) {
        SCOPED_TRACE(testing::Message()
                     << tile_m << " x " << tile_n << ", k " << k << " " << to_string(layout));
        const bool by_id = layout == GroupLayout::contiguous;
        const Strided out =
            product_of(kernel, {.groups = groups, .rows = rows, .n = kN, .k = k, .by_id = by_id}, layout,
                       by_id ? index_rows(layout, device_ids, 0) : problem.rows(), problem, in, context);
        expect_same_bytes(out.view, expected.view);
      }
    }
  }
}

// Tiles of few rows: where every group has rows for one of them, a block knows its first before it has
// walked.
TEST(GroupedTiles, OfFewRowsGiveTheBytesOfTheDenseProduct) {
  constexpr std::int64_t kN = 3000,
                         kK = 384;  // 47 tiles of 64 weights a group: three have more than there are blocks
  const Context& context = device_context("sm90:wgmma");
  for (const std::vector<int>& ends : {std::vector{0, 7, 12, 20}, {0, 7, 7, 20}, {0, 16, 49, 55}}) {
    const std::int64_t rows = ends.back(), groups = std::ssize(ends) - 1;
    const DeviceCase problem(kOps[0], {GroupLayout::offsets, rows, kN, kK, ends}, groups, DType::bf16,
                             fresh_seed());
    const Operands in = problem.operands();
    const Strided expected = dense_products(problem, in, ends, context);
    for (const auto& [tokens, weights] : {std::pair{16, 64}, {32, 128}}) {
      SCOPED_TRACE(testing::Message() << tokens << " x " << weights << ", second group ends at " << ends[2]);
      const Sm90GroupedKernel kernel{
          .swapped = 1, .fp8 = 1, .tile_m = tokens, .tile_n = weights, .stages = 6, .cluster_n = 1};
      const Strided out = product_of(kernel, {.groups = groups, .rows = rows, .n = kN, .k = kK},
                                     GroupLayout::offsets, problem.rows(), problem, in, context);
      expect_same_bytes(out.view, expected.view);
    }
  }
}

// The last tiles, taken in halves of their columns: 12 or 57 behind one round of 132 blocks, or 48 behind
// four, which are drawn from a queue.
TEST(GroupedTiles, InHalvesGiveTheBytesOfTheDenseProduct) {
  constexpr std::int64_t kN = 4000;
  const Context& context = device_context("sm90:wgmma");
  std::vector<int> many{0};
  for (int g = 0; g < 36; ++g) many.push_back(many.back() + 1 + g % 3);
  const struct {
    std::vector<int> ends;
    std::int64_t k;
    DType out;
    std::vector<std::array<int, 3>> tiles;
  } cases[] = {
      {{0, 1, 65, 165, 293, 294, 350, 420, 427, 500},
       384,
       DType::bf16,
       {{128, 256, 4}, {128, 256, 3}, {128, 192, 5}, {128, 192, 4}}},
      {{0, 1, 65, 165, 293, 294, 350, 420, 427, 500}, 128, DType::f32, {{128, 256, 3}, {128, 192, 5}}},
      {many, 128, DType::bf16, {{128, 256, 4}, {64, 256, 5}}}};
  for (const auto& [ends, k, out_type, tiles] : cases) {
    const std::int64_t rows = ends.back(), groups = std::ssize(ends) - 1;
    const DeviceCase problem(kOps[0], {GroupLayout::offsets, rows, kN, k, ends}, groups, out_type,
                             fresh_seed());
    const Operands in = problem.operands();
    const Strided expected = dense_products(problem, in, ends, context);
    for (const auto& [tile_m, tile_n, stages] : tiles) {
      SCOPED_TRACE(testing::Message()
                   << groups << " groups, " << tile_m << " x " << tile_n << " x " << stages);
      const Sm90GroupedKernel kernel{
          .swapped = 0, .fp8 = 1, .tile_m = tile_m, .tile_n = tile_n, .stages = stages, .cluster_n = 1};
      const Strided out = product_of(kernel, {.groups = groups, .rows = rows, .n = kN, .k = k},
                                     GroupLayout::offsets, problem.rows(), problem, in, context);
      expect_same_bytes(out.view, expected.view);
    }
  }
}

// At the model's k, against sums in double of the dequantised operands.
TEST_P(GroupedOnDevice, IsAccurateForTheModelsRows) {
  const bool fp8 = GetParam().element == DType::f8e4m3;
  for (const std::string& implementation : cuda_implementations(GetParam().name)) {
    for (const DType out_type : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(implementation);
      const DeviceCase problem(GetParam(), {GroupLayout::offsets, 45, 130, 7168, {0, 3, 45}}, 2, out_type,
                               fresh_seed());
      const GroupedCase& host = problem.host();
      Tensor exact(DType::f32, {45, 130});
      on_slices(45, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first * 130; i < last * 130; ++i) {
          const std::int64_t r = i / 130, j = i % 130, g = host.group_of(r);
          double sum = 0;
          for (std::int64_t c = 0; c < 56; ++c) {
            double part = 0;
            for (std::int64_t l = 128 * c; l < 128 * c + 128; ++l)
              part += host.a[r * 7168 + l] * host.b[(g * 130 + j) * 7168 + l];
            sum += fp8 ? part * host.a_scale[r * 56 + c] * host.b_scale[(g * 2 + j / 128) * 56 + c] : part;
          }
          exact.as<float>()[i] = static_cast<float>(sum);
        }
      });
      for (const std::int64_t expected : {4, 32, 500}) {
        const OnDevice out(problem.poisoned_out());
        problem.run(out, device_context(implementation), expected);
        EXPECT_LT(calc_diff(out.download().view, exact), 3e-6) << "expected " << expected;
      }
    }
  }
}

// As many groups as any model has, and as a kernel takes.
TEST_P(GroupedOnDevice, HundredsOfGroups) {
  for (const std::string& implementation : cuda_implementations(GetParam().name)) {
    for (const GroupLayout layout : kLayouts) {
      const std::int64_t groups = layout == GroupLayout::masked ? 1024 : 512;
      SCOPED_TRACE(testing::Message() << implementation << " " << groups << " " << to_string(layout));
      GroupedShape shape{.layout = layout, .rows = 3, .n = 16, .k = 128};
      for (std::int64_t g = 0; g < groups; ++g) {
        const int count = static_cast<int>(g % 7 % 4);
        if (layout == GroupLayout::masked) shape.index.push_back(count);
        if (layout == GroupLayout::contiguous)
          shape.index.insert(shape.index.end(), static_cast<std::size_t>(count), static_cast<int>(g));
        if (layout == GroupLayout::offsets)
          shape.index.push_back(g == 0 ? 0 : shape.index.back() + static_cast<int>((g - 1) % 7 % 4));
      }
      if (layout == GroupLayout::offsets) shape.index.push_back(shape.index.back() + 2);
      if (layout == GroupLayout::offsets) shape.rows = shape.index.back();
      if (layout == GroupLayout::contiguous) shape.rows = std::ssize(shape.index);
      DeviceCase problem(GetParam(), shape, groups, DType::bf16, fresh_seed());
      const Strided before = strided(problem.poisoned_out(), 0);
      const OnDevice out(before);
      problem.run(out, device_context(implementation), 2);
      problem.check(out.download(), before, implementation);
    }
  }
}

// Of groups without rows nothing is touched, neither rows nor weights: here most of them are not even there.
TEST_P(GroupedOnDevice, DeadBlocksAreNotRead) {
  constexpr std::int64_t kGroups = 5, kMost = 1 << 14, kN = 200, kK = 1024, kThere = 256;
  const Op& op = GetParam();
  Random random(fresh_seed());
  const OnDevice a(random.normal(op.element, {kThere, kK})), b(random.normal(op.element, {kN, kK}));
  const OnDevice a_scale(random.uniform(DType::f32, {kThere, kK / 128}, 0.5, 2));
  const OnDevice b_scale(random.uniform(DType::f32, {2, kK / 128}, 0.5, 2));
  const OnDevice counts(tensor_of<int>(DType::i32, {kGroups}, {70, 0, 0, 0, 0}));
  const auto blocks = [](const TensorView& there, std::int64_t rows) {
    TensorView view = there;
    view.rank = 3;
    view.shape = {kGroups, rows, there.size(1)};
    view.stride = {rows * there.size(1), there.size(1), 1};
    return view;
  };
  const std::vector<TensorView> weights = split_groups(blocks(b, 1 << 20));
  const std::vector<TensorView> scales = split_groups(blocks(b_scale, 1 << 20));
  std::vector<TensorView> b_views, b_scale_views;
  for (const TensorView& w : weights) b_views.push_back(w.rows(0, kN));
  for (const TensorView& w : scales) b_scale_views.push_back(w.rows(0, 2));
  for (const std::string& implementation : cuda_implementations(op.name)) {
    for (const std::int64_t expected : {1, 20, 60, 4000}) {
      SCOPED_TRACE(testing::Message() << implementation << " expected " << expected);
      const OnDevice out(poisoned(DType::bf16, {kThere, kN}));
      call(op, {blocks(a, kMost), blocks(a_scale, kMost), b_views, b_scale_views},
           index_rows(GroupLayout::masked, counts, expected), blocks(out, kMost),
           device_context(implementation));
      const Strided got = out.download();
      for (std::int64_t r = 0; r < kThere; ++r) ASSERT_EQ(std::isnan(got.buffer[r * kN]), r >= 70) << r;
    }
  }
}

// Blocks draw tiles in any order: of few tiles, which are shared out, and of many, which lie in a queue.
TEST_P(GroupedOnDevice, TwoHundredRunsGiveTheSameBytes) {
  std::vector<int> ends{0}, ids;
  for (int g = 0; g < 30; ++g) {
    ends.push_back(ends.back() + g * 37 % 200);
    ids.insert(ids.end(), static_cast<std::size_t>(ends.back() - ends[ends.size() - 2]), g);
  }
  const GroupedShape shapes[] = {{GroupLayout::masked, 150, 136, 512, {150, 0, 7, 70, 33, 128}},
                                 {GroupLayout::offsets, ends.back(), 256, 256, ends},
                                 {GroupLayout::contiguous, ends.back(), 256, 256, ids}};
  for (const std::string& implementation : cuda_implementations(GetParam().name)) {
    for (const GroupedShape& shape : shapes) {
      for (const std::int64_t expected : {4, 24, 300}) {
        SCOPED_TRACE(testing::Message()
                     << implementation << " " << to_string(shape.layout) << " expected " << expected);
        const DeviceCase problem(GetParam(), shape, shape.layout == GroupLayout::masked ? 6 : 30, DType::bf16,
                                 fresh_seed());
        std::optional<Strided> first;
        const Context& context = device_context(implementation);
        const Tensor nan = problem.poisoned_out();
        const OnDevice out(nan);
        for (int i = 0; i < 200 && !HasFailure(); ++i) {
          out.upload(nan);
          problem.run(out, context, expected);
          cuda::synchronize(context);
          Strided got = out.download();
          if (first) {
            expect_same_bytes(got.buffer, first->buffer);
          } else {
            first.emplace(std::move(got));
          }
        }
      }
    }
  }
}

// A recorded call reads the counts of the moment when it is replayed.
TEST_P(GroupedOnDevice, GraphsFollowTheCounts) {
  for (const std::string& implementation : cuda_implementations(GetParam().name)) {
    SCOPED_TRACE(implementation);
    const DeviceCase problem(GetParam(), {GroupLayout::masked, 90, 136, 384, {90, 0, 7, 70}}, 4, DType::bf16,
                             fresh_seed());
    const Context& context = device_context(implementation);
    const OnDevice all(problem.poisoned_out());
    problem.index().upload(tensor_of<int>(DType::i32, {4}, {90, 90, 90, 90}));
    problem.run(all, context);
    const Strided expected = all.download();
    const cuda::Stream stream(context);
    const Context on_stream = context.on_stream(stream.handle());
    const OnDevice out(problem.poisoned_out());
    const cuda::Graph graph = cuda::Graph::capture(on_stream, [&] { problem.run(out, on_stream); });
    for (const std::vector<int>& counts : {std::vector<int>{0, 0, 0, 0}, {1, 90, 0, 64}, {90, 2, 65, 0}}) {
      problem.index().upload(tensor_of<int>(DType::i32, {4}, counts));
      out.upload(problem.poisoned_out());
      graph.launch(on_stream);
      stream.synchronize();
      const Strided got = out.download();
      for (std::int64_t r = 0; r < 360; ++r) {
        const bool live = r % 90 < counts[static_cast<std::size_t>(r / 90)];
        if (live) {
          expect_same_bytes(got.view.rows(r, r + 1), expected.view.rows(r, r + 1));
        } else {
          ASSERT_TRUE(std::isnan(got.buffer[r * 136]) && std::isnan(got.buffer[r * 136 + 135])) << r;
        }
      }
    }
  }
}

// The queues of tiles of graphs that are gone serve others: more graphs than there are queues, and none is
// without.
TEST(GroupedGraphs, GiveTheirQueuesBack) {
  const Context& context = device_context("sm90:wgmma");
  const cuda::Stream stream(context);
  const Context on_stream = context.on_stream(stream.handle());
  constexpr int kLaunches = 128;
  for (int i = 0; i < 3 * kRecordedTileQueues / kLaunches; ++i) {
    const cuda::Graph graph = cuda::Graph::capture(on_stream, [&] {
      for (int launch = 0; launch < kLaunches; ++launch) ASSERT_GE(tile_queue(on_stream), kTileQueues) << i;
    });
    graph.launch(on_stream);
    stream.synchronize();
    ASSERT_FALSE(HasFailure());
  }
}

}  // namespace
}  // namespace fathom
