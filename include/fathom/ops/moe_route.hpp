// The MoE router: which experts a token goes to, and with which weight.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// What turns logits into scores.
enum class RouterScoring : std::uint8_t { sigmoid, softmax };
std::string_view to_string(RouterScoring scoring);
bool parse_enum(std::string_view text, RouterScoring& scoring);

struct MoeRouteProblem {
  static constexpr std::string_view op = "moe_route";
  std::int64_t tokens = 1;
  std::int64_t experts = 256;
  std::int64_t n_group = 8;
  std::int64_t topk_group = 4;
  std::int64_t top_k = 8;
  RouterScoring scoring = RouterScoring::sigmoid;
  bool bias = true;
  bool renormalize = true;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("experts", experts);
    visit("n_group", n_group);
    visit("topk_group", topk_group);
    visit("top_k", top_k);
    visit("scoring", scoring);
    visit("bias", bias);
    visit("renormalize", renormalize);
  }
  bool operator==(const MoeRouteProblem&) const = default;
};

struct MoeRouteArgs {
  TensorView logits;           // [tokens, experts]
  TensorView correction_bias;  // [experts], optional
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  RouterScoring scoring = RouterScoring::sigmoid;
  bool renormalize = true;
  float routed_scaling = 1.0f;
  TensorView ids;      // [tokens, top_k], written
  TensorView weights;  // [tokens, top_k], written
};

/// Chooses top_k experts for every token.
///
///   score[e]  = sigmoid(logits[e])            or softmax over all experts
///   choice[e] = score[e] + correction_bias[e]
///   The experts lie in n_group groups of neighbours. A group's value is the sum of its two best choices;
///   only the topk_group best groups take part. Among their experts the top_k best choices win.
///
///   weight    = routed_scaling * score (without bias), divided by the sum of the winners' scores + 1e-20 if
///               renormalize
///
///   logits           [tokens, experts]  f32; on CUDA at most 4096 experts
///   correction_bias  [experts]          f32; optional
///   ids              [tokens, top_k]    i32, best choice first
///   weights          [tokens, top_k]    f32
///
/// Ties go to the lower expert or group. A choice that is NaN loses against every number. Ids of one token
/// are distinct. Sigmoid scores are a fixed sequence of f32 operations with the same bytes on every vector
/// target and on devices; softmax divides by a sum whose order is the target's own (2^-20 relative). Throws
/// InvalidArgument if a shape or dtype differs, n_group does not divide experts, or the chosen groups hold
/// fewer than top_k experts.
void moe_route(const MoeRouteArgs& args, const Context& context);

}  // namespace fathom
