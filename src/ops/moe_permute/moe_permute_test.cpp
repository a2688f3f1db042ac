// Tests of moe_permute.
#include "fathom/ops/moe_permute.hpp"

#include <cmath>
#include <vector>

#include "ops/moe_permute/moe_permute_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(MoePermute, HandComputedContiguous) {
  const Tensor ids = tensor_of<int>(DType::i32, {3, 2}, {2, 0, -1, 2, 0, 2});
  const Tensor x = tensor_of<float>(DType::f32, {3, 1}, {10, 20, 30});
  Tensor out = poisoned(DType::f32, {9, 1});
  for (std::int64_t i = 0; i < 9; ++i) out.set(i, -1);
  Tensor slot_to_row = poisoned(DType::i32, {3, 2});
  Tensor row_to_group = poisoned(DType::i32, {9});
  Tensor offsets = poisoned(DType::i32, {4});
  Tensor counts = poisoned(DType::i32, {3});
  moe_permute({.ids = ids,
               .x = x,
               .groups = 3,
               .alignment = 4,
               .out = out,
               .slot_to_row = slot_to_row,
               .row_to_group = row_to_group,
               .offsets = offsets,
               .masked_m = counts},
              test_context());
  expect_same_bytes(slot_to_row, tensor_of<int>(DType::i32, {3, 2}, {4, 0, -1, 5, 1, 6}));
  expect_same_bytes(row_to_group, tensor_of<int>(DType::i32, {9}, {0, 0, -1, -1, 2, 2, 2, -1, -1}));
  expect_same_bytes(offsets, tensor_of<int>(DType::i32, {4}, {0, 4, 4, 8}));
  expect_same_bytes(counts, tensor_of<int>(DType::i32, {3}, {2, 0, 3}));
  expect_same_bytes(out, tensor_of<float>(DType::f32, {9, 1}, {10, 30, -1, -1, 10, 20, 30, -1, -1}));
}

TEST(MoePermute, HandComputedMasked) {
  const Tensor ids = tensor_of<int>(DType::i32, {2, 2}, {1, 0, -1, 1});
  const Tensor x = tensor_of<float>(DType::f32, {2, 1}, {10, 20});
  const Tensor x_scale = tensor_of<float>(DType::f32, {2, 1}, {1, 2});
  Tensor out = tensor_of<float>(DType::f32, {2, 2, 1}, {-1, -1, -1, -1});
  Tensor out_scale = tensor_of<float>(DType::f32, {2, 2, 1}, {-1, -1, -1, -1});
  Tensor slot_to_row = poisoned(DType::i32, {2, 2});
  Tensor masked_m = poisoned(DType::i32, {2});
  moe_permute({.ids = ids,
               .x = x,
               .x_scale = x_scale,
               .groups = 2,
               .out = out,
               .out_scale = out_scale,
               .slot_to_row = slot_to_row,
               .masked_m = masked_m},
              test_context());
  expect_same_bytes(slot_to_row, tensor_of<int>(DType::i32, {2, 2}, {2, 0, -1, 3}));
  expect_same_bytes(masked_m, tensor_of<int>(DType::i32, {2}, {1, 2}));
  expect_same_bytes(out, tensor_of<float>(DType::f32, {2, 2, 1}, {10, -1, 10, 20}));
  expect_same_bytes(out_scale, tensor_of<float>(DType::f32, {2, 2, 1}, {1, -1, 1, 2}));
}

// Random ids of which some are -1, and possibly an expert nobody wants or everybody does.
Tensor random_ids(Random& random, std::int64_t tokens, std::int64_t top_k, std::int64_t low,
                  std::int64_t high) {
  Tensor ids(DType::i32, {tokens, top_k});
  for (std::int64_t i = 0; i < ids.count(); ++i) ids.set(i, static_cast<double>(random.integer(low, high)));
  return ids;
}

struct Permuted {
  Tensor out, out_scale, slot_to_row, row_to_group, offsets, masked_m;
};

Permuted permute(const MoePermuteProblem& p, const Tensor& ids, const Tensor& x, const Tensor& x_scale,
                 const Context& context) {
  const std::int64_t all = p.masked ? p.groups * p.rows : p.rows;
  Permuted result{poisoned(p.x, {all, p.dim}),
                  poisoned(DType::f32, {all, p.scales}),
                  poisoned(DType::i32, {p.tokens, p.top_k}),
                  poisoned(DType::i32, {all}),
                  poisoned(DType::i32, {p.groups + 1}),
                  poisoned(DType::i32, {p.groups})};
  const auto rows = [&](const Tensor& t) {
    return p.masked
               ? TensorView::contiguous(t.view().data, t.view().dtype, {p.groups, p.rows, t.view().size(1)})
               : t.view();
  };
  MoePermuteArgs args{.ids = ids,
                      .x = x,
                      .groups = p.groups,
                      .alignment = p.alignment,
                      .out = rows(result.out),
                      .slot_to_row = result.slot_to_row,
                      .masked_m = result.masked_m};
  if (p.scales > 0) {
    args.x_scale = x_scale;
    args.out_scale = rows(result.out_scale);
  }
  if (!p.masked) {
    args.row_to_group = result.row_to_group;
    args.offsets = result.offsets;
  }
  moe_permute(args, context);
  return result;
}

TEST(MoePermute, AgreesWithReferenceByteForByte) {
  Random random(1);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f8e4m3}) {
    for (const std::int64_t tokens : {0, 1, 255, 256, 257}) {
      for (const auto& [low, high] : {std::pair(-1, 15), std::pair(3, 3), std::pair(-1, -1)}) {
        for (const std::int64_t alignment : {0, 1, 8, 128}) {  // 0: masked
          MoePermuteProblem p{.tokens = tokens, .top_k = 4, .groups = 16, .dim = 37, .scales = 3, .x = dtype};
          p.masked = alignment == 0;
          p.alignment = p.masked ? 1 : alignment;
          p.rows = p.masked ? 4 * moe_masked_rows(tokens) : moe_permute_rows(tokens, 4, 16, alignment);
          SCOPED_TRACE(problem_string(p));
          const Tensor ids = random_ids(random, tokens, 4, low, high);
          const Tensor x = random.normal(dtype, {tokens, 37});
          const Tensor x_scale = random.normal(DType::f32, {tokens, 3});
          const Permuted got = permute(p, ids, x, x_scale, test_context());
          const Permuted expected = permute(p, ids, x, x_scale, forced_context("ref:any"));
          for (const auto tensor : {&Permuted::out, &Permuted::out_scale, &Permuted::slot_to_row,
                                    &Permuted::row_to_group, &Permuted::offsets, &Permuted::masked_m}) {
            expect_same_bytes(got.*tensor, expected.*tensor);
          }
        }
      }
    }
  }
}

TEST(MoePermute, KeepsTheOrderOfTokensWithinAGroup) {
  Random random(2);
  const MoePermuteProblem p{.tokens = 200, .top_k = 3, .groups = 5, .dim = 1, .rows = 600};
  const Tensor ids = random_ids(random, 200, 3, -1, 4);
  const Tensor x = random.normal(DType::f32, {200, 1});
  const Permuted got = permute(p, ids, x, x, test_context());
  std::vector<double> last(5, -1);
  for (std::int64_t i = 0; i < ids.count(); ++i) {
    if (ids[i] < 0) {
      EXPECT_EQ(got.slot_to_row[i], -1);
      continue;
    }
    const auto group = static_cast<std::size_t>(ids[i]);
    EXPECT_GT(got.slot_to_row[i], last[group]);
    last[group] = got.slot_to_row[i];
    EXPECT_EQ(got.out[static_cast<std::int64_t>(last[group])], x[i / 3]);
    EXPECT_EQ(got.row_to_group[static_cast<std::int64_t>(last[group])], ids[i]);
  }
}

TEST(MoePermute, RowsThatAlwaysSuffice) {
  EXPECT_EQ(moe_masked_rows(0), 256);
  EXPECT_EQ(moe_masked_rows(255), 256);
  EXPECT_EQ(moe_masked_rows(256), 512);
  EXPECT_EQ(moe_masked_rows(257), 512);
  EXPECT_EQ(moe_permute_rows(0, 8, 256, 128), 0);
  EXPECT_EQ(moe_permute_rows(1, 8, 256, 128), 8 * 128);
  EXPECT_EQ(moe_permute_rows(10, 8, 4, 1), 80);
  EXPECT_EQ(moe_permute_rows(10, 8, 4, 128), 4 * 128);        // 4 * 127 + 80 rows hold at most 4 blocks
  EXPECT_EQ(moe_permute_rows(100, 8, 4, 128), 10 * 128 - 0);  // 800 + 4 * 127 = 1308 rows: 10 blocks
}

TEST(MoePermute, ScalesMayLieAlongColumns) {
  Random random(3);
  const Tensor ids = tensor_of<int>(DType::i32, {2, 1}, {1, 0});
  const Tensor x = random.normal(DType::f8e4m3, {2, 8});
  const Tensor x_scale = random.normal(DType::f32, {5, 2});  // seen as [2, 5]
  Tensor out = poisoned(DType::f8e4m3, {3, 8});
  Tensor out_scale = poisoned(DType::f32, {5, 4});  // seen as [3, 5]
  Tensor slot_to_row = poisoned(DType::i32, {2, 1});
  const auto columns = [](const Tensor& t, std::int64_t rows) {
    TensorView view = t.view();
    view.shape = {rows, 5};
    view.stride = {1, t.view().size(1)};
    return view;
  };
  moe_permute({.ids = ids,
               .x = x,
               .x_scale = columns(x_scale, 2),
               .groups = 2,
               .out = out,
               .out_scale = columns(out_scale, 3),
               .slot_to_row = slot_to_row},
              test_context());
  for (std::int64_t g = 0; g < 5; ++g) {
    EXPECT_EQ(out_scale[g * 4], x_scale[g * 2 + 1]);
    EXPECT_EQ(out_scale[g * 4 + 1], x_scale[g * 2]);
    EXPECT_TRUE(std::isnan(out_scale[g * 4 + 2]) && std::isnan(out_scale[g * 4 + 3]));
  }
}

TEST(MoePermute, RejectsBadArguments) {
  const Tensor ids = tensor_of<int>(DType::i32, {2, 2}, {1, 0, 1, 2});
  const Tensor x = poisoned(DType::bf16, {2, 8});
  const Tensor out = poisoned(DType::bf16, {3, 8});
  const Tensor blocks = poisoned(DType::bf16, {3, 1, 8});
  const Tensor slot_to_row = poisoned(DType::i32, {2, 2});
  const Tensor masked_m = poisoned(DType::i32, {3});
  const MoePermuteArgs good{.ids = ids, .x = x, .groups = 3, .out = out, .slot_to_row = slot_to_row};
  const auto refused = [&](const std::string& message, const auto& change) {
    MoePermuteArgs args = good;
    change(args);
    EXPECT_ERROR(InvalidArgument, "moe_permute: " + message, moe_permute(args, test_context()));
  };
  using Args = MoePermuteArgs;
  refused("'ids' must be in [-1,2), got 2 for slot 1 of token 1", [](Args& a) { a.groups = 2; });
  refused("'out' must have 4 rows, got [3,8]", [](Args&) {});
  refused("'out' must have 2 rows for group 1, got [3,1,8]", [&](Args& a) {
    a.out = blocks;
    a.masked_m = masked_m;
  });
  refused("'masked_m' must be given in the masked layout", [&](Args& a) { a.out = blocks; });
  refused("'offsets' must be left out in the masked layout, got [3]", [&](Args& a) {
    a.out = blocks;
    a.offsets = masked_m;
  });
  refused("'alignment' must be 1 in the masked layout, got 4", [&](Args& a) {
    a.out = blocks;
    a.alignment = 4;
  });
  refused("'alignment' must be at least 1, got 0", [](Args& a) { a.alignment = 0; });
  refused("'out' must be bf16, got i32", [&](Args& a) { a.out = slot_to_row; });
  refused("'out_scale' must be given exactly if x_scale is, got only x_scale", [&](Args& a) {
    a.x_scale = TensorView::contiguous(masked_m.view().data, DType::f32, {2, 1});
  });
}

}  // namespace
}  // namespace fathom
