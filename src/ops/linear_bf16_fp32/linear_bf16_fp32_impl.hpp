// The implementations of linear_bf16_fp32.
#pragma once
#include "fathom/ops/linear_bf16_fp32.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void linear_bf16_fp32_ref(const LinearBf16Fp32Problem& problem, const LinearBf16Fp32Args& args,
                          const Context& context);
void linear_bf16_fp32_cpu(const LinearBf16Fp32Problem& problem, const LinearBf16Fp32Args& args,
                          const Context& context);
void linear_bf16_fp32_simt(const LinearBf16Fp32Problem& problem, const LinearBf16Fp32Args& args,
                           const Context& context);
Verdict linear_bf16_fp32_cublaslt_can_run(const LinearBf16Fp32Problem& problem, const Context& context);
void linear_bf16_fp32_cublaslt(const LinearBf16Fp32Problem& problem, const LinearBf16Fp32Args& args,
                               const Context& context);
Verdict linear_bf16_fp32_sm90_can_run(const LinearBf16Fp32Problem& problem, const Context& context);
void linear_bf16_fp32_sm90(const LinearBf16Fp32Problem& problem, const LinearBf16Fp32Args& args,
                           const Context& context);
}  // namespace fathom
