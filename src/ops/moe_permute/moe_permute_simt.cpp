// moe_permute on CUDA: one launch for few slots, else one that places them and one that copies. See
// kernels/simt/moe_permute.cuh.
#include <fmt/format.h>

#include <limits>

#include "cuda/device_context.hpp"
#include "jit/kernel_cache.hpp"
#include "layout/moe.cuh"
#include "ops/kernels.hpp"
#include "ops/moe_permute/moe_permute_impl.hpp"
#include "ops/simt_quant.hpp"

namespace fathom {
namespace {

enum class Part : std::int32_t { few, whole, place, copy };

struct Plan {
  Part part;
  std::int32_t word;  // bytes that a thread copies at a time: 1, 4, 16; of a place 0
};

constexpr std::int64_t kMostShared = 64 << 10;  // bytes

jit::Source source(const Plan& plan) {
  const char* word = plan.word == 16 ? "uint4" : plan.word == 4 ? "unsigned" : "unsigned char";
  const auto [name, call] = [&]() -> std::pair<std::string, std::string> {
    switch (plan.part) {
      case Part::few:
        return {fmt::format("simt_few{}", plan.word), fmt::format("moe_permute_few<{}>(args)", word)};
      case Part::place:
        return {"simt_place", "moe_place(args, shared)"};
      case Part::copy:
        return {fmt::format("simt_copy{}", plan.word), fmt::format("moe_copy<{}>(args)", word)};
      default:
        return {fmt::format("simt_{}", plan.word), fmt::format("moe_permute<{}>(args, shared)", word)};
    }
  }();
  return {"moe_permute." + name,
          fmt::format("#include \"simt/moe_permute.cuh\"\n"
                      "extern \"C\" __global__ void __launch_bounds__({})\n"
                      "fathom_kernel(const __grid_constant__ fathom::MoePermuteKernelArgs args) {{\n"
                      "  static_assert(sizeof(fathom::MoePermuteKernelArgs) == {});\n"
                      "  extern __shared__ int shared[];\n  fathom::simt::{};\n}}\n",
                      plan.part == Part::place ? kPlaceThreads : kPermuteThreads,
                      sizeof(MoePermuteKernelArgs), call)};
}

bool by_warps(const MoePermuteProblem& problem) { return problem.tokens * problem.top_k <= kPermuteFewSlots; }
bool in_one_launch(const MoePermuteProblem& problem) {
  return problem.tokens * problem.top_k <= kPermuteMostSlots &&
         place_shared_bytes(2, problem.groups) <= kMostShared / 2;
}

bool rows_on(const TensorView& tensor, std::int64_t bytes) {
  bool fits = reinterpret_cast<std::uintptr_t>(tensor.data) % static_cast<std::uintptr_t>(bytes) == 0;
  for (int axis = 0; axis + 1 < tensor.rank; ++axis) {
    fits = fits && (tensor.size(axis) <= 1 || tensor.step(axis) * size_of(tensor.dtype) % bytes == 0);
  }
  return fits;
}

std::int32_t word_of(const MoePermuteArgs& args, std::int64_t width) {
  for (const std::int32_t bytes : {16, 4}) {
    if (width % bytes == 0 && rows_on(args.x, bytes) && rows_on(args.out, bytes)) return bytes;
  }
  return 1;
}

MoePermuteKernelArgs kernel_args(const MoePermuteProblem& problem, const MoePermuteArgs& args) {
  const auto index = [](const TensorView& t) { return t.given() ? t.as<int>() : nullptr; };
  const auto step = [](const TensorView& t) { return t.given() ? t.step(0) : 0; };
  const std::int64_t size = size_of(problem.x);
  const int row_axis = problem.masked ? 1 : 0;
  MoePermuteKernelArgs kernel{.ids = args.ids.as<const int>(),
                              .slot_to_row = args.slot_to_row.as<int>(),
                              .row_to_group = index(args.row_to_group),
                              .offsets = index(args.offsets),
                              .masked_m = index(args.masked_m),
                              .ids_row = args.ids.step(0),
                              .slot_to_row_row = args.slot_to_row.step(0),
                              .row_to_group_step = step(args.row_to_group),
                              .offsets_step = step(args.offsets),
                              .masked_m_step = step(args.masked_m),
                              .tokens = problem.tokens,
                              .rows = problem.rows,
                              .alignment = problem.alignment,
                              .top_k = static_cast<int>(problem.top_k),
                              .groups = static_cast<int>(problem.groups),
                              .masked = problem.masked,
                              .x = args.x.data,
                              .out = args.out.data,
                              .width = problem.dim * size,
                              .x_row = args.x.step(0) * size,
                              .out_row = args.out.step(row_axis) * size,
                              .out_group = problem.masked ? args.out.step(0) * size : 0};
  if (problem.scales > 0) {
    kernel.x_scale = args.x_scale.as<const unsigned>();
    kernel.out_scale = args.out_scale.as<unsigned>();
    kernel.scales = problem.scales;
    kernel.x_scale_row = args.x_scale.step(0);
    kernel.x_scale_column = args.x_scale.step(1);
    kernel.out_scale_group = problem.masked ? args.out_scale.step(0) : 0;
    kernel.out_scale_row = args.out_scale.step(row_axis);
    kernel.out_scale_column = args.out_scale.step(row_axis + 1);
  }
  return kernel;
}

}  // namespace

Verdict moe_permute_simt_can_run(const MoePermuteProblem& problem, const Context&) {
  if (place_shared_bytes(3, problem.groups) > kMostShared)
    return decline("needs at most 5461 groups, got " + std::to_string(problem.groups));
  if (problem.tokens > std::numeric_limits<std::int32_t>::max() / std::max<std::int64_t>(1, problem.top_k))
    return decline("needs fewer than 2^31 slots, got those of " + std::to_string(problem.tokens) + " tokens");
  return accept;
}

void moe_permute_simt(const MoePermuteProblem& problem, const MoePermuteArgs& args, const Context& context) {
  const MoePermuteKernelArgs kernel = kernel_args(problem, args);
  const std::int32_t word = word_of(args, kernel.width);
  if (by_warps(problem)) {
    jit::launch(jit::kernel(context, source, Plan{Part::few, word}),
                {.grid = {std::max(1u, static_cast<unsigned>(problem.tokens * problem.top_k))},
                 .block = {kPermuteThreads}},
                context, kernel);
    return;
  }
  if (in_one_launch(problem)) {
    // Few tokens: more blocks for each of them, as long as every thread has a word.
    constexpr std::int64_t kBlocks = 64;
    const std::int64_t words = std::max<std::int64_t>(1, kernel.width / (word * kPermuteThreads));
    const std::int64_t split = std::clamp<std::int64_t>(kBlocks / problem.tokens, 1, words);
    jit::launch(jit::kernel(context, source, Plan{Part::whole, word}),
                {.grid = {static_cast<unsigned>(problem.tokens * split)},
                 .block = {kPermuteThreads},
                 .shared_bytes = place_shared_bytes(2, problem.groups)},
                context, kernel);
    return;
  }
  jit::launch(jit::kernel(context, source, Plan{Part::place, 0}),
              {.grid = {std::max(1u, grid_for(problem.tokens * problem.top_k, kPlaceThreads))},
               .block = {kPlaceThreads},
               .shared_bytes = place_shared_bytes(3, problem.groups)},
              context, kernel);
  jit::launch(jit::kernel(context, source, Plan{Part::copy, word}),
              {.grid = {grid_for(problem.tokens, 1)}, .block = {kPermuteThreads}}, context, kernel);
}

KernelSources moe_permute_kernels;
std::vector<jit::Source> moe_permute_kernels(std::string_view text, const cuda::DeviceInfo&) {
  const auto problem = parse_problem<MoePermuteProblem>(text);
  const Part part = by_warps(problem) ? Part::few : in_one_launch(problem) ? Part::whole : Part::copy;
  std::vector<jit::Source> sources;
  if (part == Part::copy) sources.push_back(source({Part::place, 0}));
  for (const std::int32_t word : {16, 4, 1}) {
    if (problem.dim * size_of(problem.x) % word != 0) continue;
    sources.push_back(source({part, word}));
  }
  return sources;
}

}  // namespace fathom
