#include "fathom/ops/transform_scale_ue8m0.hpp"

#include <fmt/format.h>

#include <string>

#include "ops/dispatch.hpp"
#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/transform_scale_ue8m0/transform_scale_ue8m0_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<TransformScaleUe8m0Problem, TransformScaleUe8m0Args>;

// Runs once per weight and moves bytes only: the plain loops are all there is.
constexpr Impl kImplementations[] = {
    {"ref:any", always, transform_scale_ue8m0_ref},
};

void expect_powers_of_two(const Expect& expect, const TensorView& sf) {
  const int rows_axis = sf.rank - 2;
  for (std::int64_t b = 0; b < (sf.rank == 3 ? sf.size(0) : 1); ++b) {
    const TensorView matrix = matrix_of(sf, b);
    for (std::int64_t i = 0; i < sf.size(rows_axis); ++i) {
      for (std::int64_t j = 0; j < sf.size(rows_axis + 1); ++j) {
        const float value = at(matrix, i, j);
        if (value == 0 || value == ue8m0_to_float(round_up_to_e8m0(value))) continue;  // false for NaN
        const std::string batch = sf.rank == 3 ? std::to_string(b) + "," : "";
        expect.fail("sf[" + batch + std::to_string(i) + "," + std::to_string(j) + "]", "be a power of two",
                    fmt::format("{}", value));
      }
    }
  }
}

TransformScaleUe8m0Problem validate(const TransformScaleUe8m0Args& args, Device device) {
  const Expect expect{TransformScaleUe8m0Problem::op, device};
  const int rank = args.sf.rank == 3 ? 3 : 2;
  expect.rank("sf", args.sf, rank);
  expect.rank("out", args.out, rank);
  expect.at_least("rows_per_scale", args.rows_per_scale, 1);
  const TransformScaleUe8m0Problem problem{.batch = rank == 3 ? args.sf.size(0) : 0,
                                           .mn = args.out.size(rank - 2),
                                           .groups = args.sf.size(rank - 1),
                                           .rows_per_scale = args.rows_per_scale,
                                           .round_up = args.round_up};
  const std::int64_t scale_rows = (problem.mn + problem.rows_per_scale - 1) / problem.rows_per_scale;
  if (rank == 3) {
    expect.tensor("sf", args.sf, {DType::f32}, {problem.batch, scale_rows, problem.groups});
  } else {
    expect.tensor("sf", args.sf, {DType::f32}, {scale_rows, problem.groups});
  }
  expect_scale(expect, "out", args.out, ScaleFormat::ue8m0, ScaleLayout::packed_ue8m0, problem.mn,
               problem.groups, rank == 3 ? problem.batch : -1);
  if (!problem.round_up) expect_powers_of_two(expect, args.sf);
  return problem;
}

}  // namespace

extern const OpInfo transform_scale_ue8m0_info;
const OpInfo transform_scale_ue8m0_info =
    make_op_info("power-of-two scales packed into exponents", TransformScaleUe8m0Problem{}, kImplementations);

TensorView transform_scale_ue8m0(const TransformScaleUe8m0Args& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
  return with_aligned_stride(args.out);
}

void unpack_scale_ue8m0(const TensorView& packed, std::int64_t rows_per_scale, const TensorView& sf) {
  const Expect expect{"unpack_scale_ue8m0"};
  expect.rank("packed", packed, 2);
  expect.at_least("rows_per_scale", rows_per_scale, 1);
  const std::int64_t mn = packed.size(0);
  expect.tensor("sf", sf, {DType::f32}, {(mn + rows_per_scale - 1) / rows_per_scale, -1});
  const std::int64_t groups = sf.size(1);
  expect_scale(expect, "packed", packed, ScaleFormat::ue8m0, ScaleLayout::packed_ue8m0, mn, groups);
  const auto exponent = [&](std::int64_t row, std::int64_t group) {
    const std::uint32_t word = packed.as<std::uint32_t>()[row * packed.step(0) + group / 4 * packed.step(1)];
    return static_cast<std::uint8_t>(word >> (8 * (group % 4)));
  };
  for (std::int64_t r = 0; r < mn; ++r) {
    const std::int64_t first = r - r % rows_per_scale;
    for (std::int64_t g = 0; g < groups; ++g) {
      if (r == first) put(sf, r / rows_per_scale, g, ue8m0_to_float(exponent(r, g)));
      if (exponent(r, g) == exponent(first, g)) continue;
      expect.fail("packed[" + std::to_string(r) + "]", "equal row " + std::to_string(first),
                  "another exponent in group " + std::to_string(g));
    }
  }
}

}  // namespace fathom
