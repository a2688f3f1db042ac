#include "device_bench.hpp"

#include <set>

#include "cuda/device_context.hpp"
#include "fathom/core/error.hpp"
#include "jit/kernel_cache.hpp"

namespace fathom {
namespace {

std::string one_line(std::string text) {
  for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos;) text.replace(at, 1, ";");
  return text;
}

// What the driver alone takes: the least that any call can cost.
double empty_launch_us(const Context& context) {
  const jit::Kernel& kernel = jit::kernel_cache(context).get(
      {"bench.empty", "extern \"C\" __global__ void fathom_kernel() {}\n"}, context.compile_mode());
  return host_cost_us(context,
                      [&](std::int64_t) { jit::launch(kernel, {.grid = {1}, .block = {32}}, context); });
}

}  // namespace

DeviceBench::DeviceBench(const Context& context, DeviceTimer& timer, bool control, bool check)
    : context_(context), timer_(timer), check_(check) {
  cublaslt_ = control ? cuda::find_cublaslt() : cuda::CublasLtProbe{nullptr, "none"};
}

BenchRow DeviceBench::measure(const ListedProblem& problem, Timing graph) {
  BenchRow row;
  row.graph = std::move(graph);
  row.set = problem.set;
  row.text = problem.text;
  row.problem = problem.canonical;
  try {
    const BenchCase work = make_bench(problem.canonical, context_);
    if (work.problem != problem.canonical) row.text = work.problem;  // the bench runs another one
    row.problem = work.problem;
    row.bytes = work.bytes;
    row.flops = work.flops;
    row.arithmetic = work.arithmetic;
    row.timing = timer_.time(work.run);
    if (work.product) beside(*work.product, row);
  } catch (const Error& error) {
    row.error = one_line(error.what());
  }
  return row;
}

void DeviceBench::beside(const BenchProduct& product, BenchRow& row) {
  if (check_) row.accuracy = check_product(product, context_);
  if (cublaslt_.library == nullptr) return;
  const bool fp8 = product.b.dtype == DType::f8e4m3;
  row.control["cublaslt"] = time_control(fp8 ? ControlKind::fp8 : ControlKind::bf16, product);
  if (fp8) row.control["cublaslt_bf16"] = time_control(ControlKind::bf16, product);
}

Timing DeviceBench::time_control(ControlKind kind, const BenchProduct& product) {
  try {
    const Control control(cublaslt_.library, kind, product, context_);
    return timer_.time([&](std::int64_t) { control.run(); });
  } catch (const Error& error) {
    Timing none;
    none.note = one_line(error.what());
    return none;
  }
}

std::vector<HostCost> host_costs(std::span<const ListedProblem> problems, const Context& context,
                                 bool control) {
  const std::shared_ptr<const cuda::CublasLt> cublaslt = control ? cuda::find_cublaslt().library : nullptr;
  std::vector<HostCost> costs;
  double launch_us = 0;
  try {
    launch_us = empty_launch_us(context);
    costs.push_back({"launch of an empty kernel", launch_us, 0, std::nullopt});
  } catch (const Error&) {  // no compiler: the rows will say so
  }
  std::set<std::string> seen;
  for (const ListedProblem& problem : problems) {
    const std::string op = problem.canonical.substr(0, problem.canonical.find(':'));
    const bool decode = problem.canonical.find("decode=1") != std::string::npos;
    if (!seen.insert(op + (decode ? " decode" : "")).second) continue;
    try {
      const BenchCase work = make_bench(problem.canonical, context);
      costs.push_back({problem.text, host_cost_us(context, work.run), launch_us, std::nullopt});
      if (!work.product || cublaslt == nullptr) continue;
      const Control other(cublaslt, ControlKind::bf16, *work.product, context);
      costs.back().cublaslt_us = host_cost_us(context, [&](std::int64_t) { other.run(); });
    } catch (const Error&) {  // its row will say why
    }
  }
  return costs;
}

std::vector<Timing> graph_timings(std::span<const ListedProblem> problems, const Context& context,
                                  const DeviceTimerOptions& options) {
  DeviceTimer timer(context, nullptr, "", options);
  std::vector<Timing> timings;
  for (const ListedProblem& problem : problems) {
    timings.emplace_back();
    try {
      const BenchCase work = make_bench(problem.canonical, context);
      work.run(0);  // compiled before it is recorded
      cuda::synchronize(context);
      const cuda::Graph graph = cuda::Graph::capture(context, [&] { work.run(0); });
      timings.back() = timer.time([&](std::int64_t) { graph.launch(context); });
    } catch (const Error& error) {
      timings.back().note = one_line(error.what());
    }
  }
  return timings;
}

std::string describe_device(const Context& context) {
  const cuda::DeviceInfo& info = cuda::device_context(context).info();
  return info.name + ", " + std::to_string(info.num_sms) + " SMs";
}

}  // namespace fathom
