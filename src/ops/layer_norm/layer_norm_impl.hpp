// The implementations of layer_norm.
#pragma once
#include "fathom/ops/layer_norm.hpp"

namespace fathom {
void layer_norm_ref(const LayerNormProblem& problem, const LayerNormArgs& args, const Context& context);
void layer_norm_cpu(const LayerNormProblem& problem, const LayerNormArgs& args, const Context& context);
void layer_norm_simt(const LayerNormProblem& problem, const LayerNormArgs& args, const Context& context);
}  // namespace fathom
