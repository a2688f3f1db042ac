#include "fathom/ops/mla_absorb.hpp"

#include "ops/dispatch.hpp"
#include "ops/mla_absorb/mla_absorb_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MlaAbsorbProblem, MlaAbsorbArgs>;

// Runs once, at load: the plain loops are good enough.
constexpr Impl kImplementations[] = {{"ref:any", always, mla_absorb_ref}};

MlaAbsorbProblem validate(const MlaAbsorbArgs& args, Device device) {
  const Expect expect{MlaAbsorbProblem::op, device};
  expect.rank("kv_b", args.kv_b, 2);
  expect.rank("w_uk", args.w_uk, 3);
  const bool codes = args.w_uk.dtype == DType::f8e4m3;
  if (!codes) expect.rank("w_uv", args.w_uv, 3);
  const std::int64_t heads = args.w_uk.size(0);
  const std::int64_t nope = args.w_uk.size(2);
  const MlaAbsorbProblem problem{.heads = heads,
                                 .nope = nope,
                                 .value = !codes      ? args.w_uv.size(1)
                                          : heads > 0 ? args.kv_b.size(0) / heads - nope
                                                      : 0,
                                 .lora = args.kv_b.size(1),
                                 .kv_b = args.kv_b.dtype,
                                 .out = args.w_uk.dtype};
  const std::int64_t rows = problem.heads * (problem.nope + problem.value);
  expect.tensor("kv_b", args.kv_b, {DType::f8e4m3, DType::bf16, DType::f32}, {rows, problem.lora});
  if (problem.kv_b == DType::f8e4m3) {
    expect.tensor("kv_b_scale", args.kv_b_scale, {DType::f32},
                  {(rows + 127) / 128, (problem.lora + 127) / 128});
  } else {
    expect.that(!args.kv_b_scale.given(), "kv_b_scale", "be given only with f8e4m3", to_string(problem.kv_b));
  }
  expect.tensor("w_uk", args.w_uk, {DType::bf16, DType::f32, DType::f8e4m3},
                {problem.heads, problem.lora, problem.nope});
  expect.contiguous("w_uk", args.w_uk);
  expect.that(args.w_uk_scale.given() == codes, "w_uk_scale", "be given exactly if w_uk is f8e4m3",
              to_string(problem.out));
  if (codes) {
    expect.dtype("kv_b", args.kv_b, {DType::f8e4m3});
    expect.that(!args.w_uv.given(), "w_uv", "not be given with w_uk f8e4m3", args.w_uv);
    expect.that(nope % 128 == 0 && problem.value >= 0 && problem.value % 128 == 0, "kv_b",
                "have multiples of 128 rows per head for keys and values",
                std::to_string(nope) + " and " + std::to_string(problem.value));
    expect.tensor("w_uk_scale", args.w_uk_scale, {DType::f32},
                  {problem.heads, (problem.lora + 127) / 128, nope / 128});
    expect.contiguous("w_uk_scale", args.w_uk_scale);
    return problem;
  }
  expect.tensor("w_uv", args.w_uv, {problem.out}, {problem.heads, problem.value, problem.lora});
  expect.contiguous("w_uv", args.w_uv);
  return problem;
}

}  // namespace

extern const OpInfo mla_absorb_info;
const OpInfo mla_absorb_info =
    make_op_info("splits kv_b for latent attention in absorbed form", MlaAbsorbProblem{}, kImplementations);

void mla_absorb(const MlaAbsorbArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
