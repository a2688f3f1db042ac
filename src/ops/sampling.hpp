// The distribution sample and verify_drafts draw from: the plain form, and the checks both share.
#pragma once
#include <vector>

#include "fathom/ops/sample.hpp"
#include "ops/validate.hpp"

namespace fathom {

void check_sampling_params(const Expect& expect, const SamplingParams& params);
/// Every coin lies in [0, 1).
void check_coins(const Expect& expect, const TensorView& coins, std::initializer_list<std::int64_t> shape);
/// True if top_k or top_p removes anything of a vocabulary of this size.
bool cuts(const SamplingParams& params, std::int64_t vocab);

/// What a row without any logit above -inf is answered with.
[[noreturn]] void fail_without_logit(const Expect& expect, std::int64_t row);

/// The largest logit, ties to the lowest token. Throws InvalidArgument if there is none above -inf.
std::int64_t argmax_ref(const Expect& expect, const float* logits, std::int64_t vocab, std::int64_t row);
/// p of every token, zero where top_k or top_p cut it. Throws as argmax_ref.
std::vector<double> distribution_ref(const Expect& expect, const float* logits, std::int64_t vocab,
                                     const SamplingParams& params, std::int64_t row);
/// The first token at which the running sum exceeds coin * (the whole sum).
std::int64_t draw_ref(const std::vector<double>& p, float coin);

}  // namespace fathom
