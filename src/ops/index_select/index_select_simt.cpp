// The kernels that the chain launches: those of its ops.
#include <algorithm>

#include "ops/index_select/index_select_impl.hpp"
#include "ops/kernels.hpp"

namespace fathom {

KernelSources index_select_kernels;
std::vector<jit::Source> index_select_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  const auto p = parse_problem<IndexSelectProblem>(text);
  const TopKProblem choice{
      .rows = std::min(p.chunk, p.rows), .n = p.columns, .k = p.k, .transform = p.transform, .page = p.page};
  const std::string logits =
      p.paged
          ? problem_string(PagedMqaLogitsProblem{.batch = p.chunk / p.next_n,
                                                 .next_n = p.next_n,
                                                 .heads = p.heads,
                                                 .head_dim = p.head_dim,
                                                 .max_len = p.columns,
                                                 .q = p.q,
                                                 .page = p.page})
          : problem_string(MqaLogitsProblem{
                .tokens = p.chunk, .keys = p.columns, .heads = p.heads, .head_dim = p.head_dim, .q = p.q});
  const std::string problems[] = {logits, problem_string(choice)};
  return kernel_sources(problems, device);
}

}  // namespace fathom
