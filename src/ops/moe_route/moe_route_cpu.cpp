// moe_route: scores with vectors, choice in one pass over the experts. Compiled once for every vector target;
// see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/moe_route/moe_route_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <cmath>
#include <limits>

#include "cpu/silu.hpp"
#include "cpu/simd.hpp"
#include "ops/moe_route/moe_route_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// scores[0, experts) of one row of logits; lanes beyond the row are written, too.
void Scores(const float* logits, std::int64_t experts, RouterScoring scoring, float* scores) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto one = hn::Set(d, 1.0f);
  if (scoring == RouterScoring::sigmoid) {
    for (std::int64_t e = 0; e < experts; e += lanes) {
      const auto x = LoadFloats(d, logits, DType::f32, e, experts - e);
      const auto score = hn::Div(one, hn::Add(one, ExpForSigmoid(d, hn::Neg(x))));
      hn::StoreU(hn::IfThenElse(hn::IsNaN(x), x, score), d, scores + e);
    }
    return;
  }
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t e = 0; e < experts; ++e) largest = logits[e] > largest ? logits[e] : largest;
  auto sum = hn::Zero(d);
  for (std::int64_t e = 0; e < experts; e += lanes) {
    const auto x = LoadFloats(d, logits, DType::f32, e, experts - e);
    const auto inside = hn::FirstN(d, static_cast<std::size_t>(std::min(lanes, experts - e)));
    const auto power = hn::IfThenElseZero(inside, ExpForSigmoid(d, hn::Sub(x, hn::Set(d, largest))));
    const auto score = hn::IfThenElse(hn::IsNaN(x), x, power);
    sum = hn::Add(sum, score);
    hn::StoreU(score, d, scores + e);
  }
  const auto total = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, sum)));
  for (std::int64_t e = 0; e < experts; e += lanes)
    hn::StoreU(hn::Div(hn::LoadU(d, scores + e), total), d, scores + e);
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace {
HWY_EXPORT(Scores);

constexpr std::int64_t kMostExperts = 1024;
constexpr float kNever = -std::numeric_limits<float>::infinity();

// The `count` best values seen, best first; of equal ones the first seen is the better.
struct Best {
  explicit Best(std::int64_t count_) : count(count_) {}

  std::int64_t count;
  std::int64_t size = 0;
  float value[kMostExperts];
  std::int32_t id[kMostExperts];

  void offer(float v, std::int64_t i) {
    if (size == count && !(v > value[size - 1])) return;
    std::int64_t place = size < count ? size++ : size - 1;
    for (; place > 0 && v > value[place - 1]; --place) {
      value[place] = value[place - 1];
      id[place] = id[place - 1];
    }
    value[place] = v;
    id[place] = static_cast<std::int32_t>(i);
  }
};

void route_token(const MoeRouteProblem& problem, const MoeRouteArgs& args, const float* scores,
                 std::int64_t t, Best& winners, Best& groups) {
  float choice[kMostExperts];
  for (std::int64_t e = 0; e < problem.experts; ++e) {
    const float c = problem.bias ? scores[e] + args.correction_bias.as<float>()[e] : scores[e];
    choice[e] = std::isnan(c) ? kNever : c;
  }
  const std::int64_t group_size = problem.experts / problem.n_group;
  winners.size = groups.size = 0;
  bool takes_part[kMostExperts] = {};
  for (std::int64_t g = 0; problem.topk_group < problem.n_group && g < problem.n_group; ++g) {
    float first = kNever;
    float second = group_size == 1 ? 0.0f : kNever;
    for (std::int64_t e = g * group_size; e < (g + 1) * group_size; ++e) {
      const float c = choice[e];
      const float smaller = c > first ? first : c;
      first = c > first ? c : first;
      if (group_size > 1) second = smaller > second ? smaller : second;
    }
    groups.offer(first + second, g);
  }
  for (std::int64_t i = 0; i < groups.size; ++i) takes_part[groups.id[i]] = true;
  for (std::int64_t g = 0; g < problem.n_group; ++g) {
    if (groups.size > 0 && !takes_part[g]) continue;
    for (std::int64_t e = g * group_size; e < (g + 1) * group_size; ++e) winners.offer(choice[e], e);
  }
  std::int32_t* ids = args.ids.as<std::int32_t>() + t * args.ids.step(0);
  float* weights = args.weights.as<float>() + t * args.weights.step(0);
  float sum = 1e-20f;
  for (std::int64_t s = 0; s < problem.top_k; ++s) sum += scores[winners.id[s]];
  for (std::int64_t s = 0; s < problem.top_k; ++s) {
    ids[s] = winners.id[s];
    const float score = scores[winners.id[s]];
    weights[s] = (problem.renormalize ? score / sum : score) * args.routed_scaling;
  }
}
}  // namespace

Verdict moe_route_cpu_can_run(const MoeRouteProblem& problem, const Context&) {
  if (problem.experts <= kMostExperts) return accept;
  return decline("needs at most " + std::to_string(kMostExperts) + " experts, got " +
                 std::to_string(problem.experts));
}

void moe_route_cpu(const MoeRouteProblem& problem, const MoeRouteArgs& args, const Context& context) {
  const auto scores_of = HWY_DYNAMIC_DISPATCH(Scores);
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    float scores[kMostExperts + HWY_MAX_BYTES / sizeof(float)];
    Best winners(problem.top_k);
    Best groups(problem.topk_group);
    for (std::int64_t t = begin; t < end; ++t) {
      scores_of(args.logits.as<float>() + t * args.logits.step(0), problem.experts, problem.scoring, scores);
      route_token(problem, args, scores, t, winners, groups);
    }
  };
  constexpr std::int64_t kLogitsPerTask = 1 << 13;
  const std::int64_t grain = std::max<std::int64_t>(1, kLogitsPerTask / problem.experts);
  if (problem.tokens <= grain) return run(0, problem.tokens);
  context.parallel_for(problem.tokens, grain, run);
}
}  // namespace fathom
#endif
