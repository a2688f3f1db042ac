// One row of `fathom bench` on a device: the op, cuBLASLt beside it, the check.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "control.hpp"
#include "problem_list.hpp"
#include "report.hpp"

namespace fathom {

class DeviceBench {
 public:
  /// `control`: run cuBLASLt beside; `check`: compare products with double precision.
  DeviceBench(const Context& context, DeviceTimer& timer, bool control, bool check);

  /// `graph`: of the same problem, goes into the row. Never throws an Error: it becomes the row's.
  BenchRow measure(const ListedProblem& problem, Timing graph = {});
  /// Which cuBLASLt runs beside, or why none does.
  const std::string& control() const { return cublaslt_.detail; }

 private:
  void beside(const BenchProduct& product, BenchRow& row);
  Timing time_control(ControlKind kind, const BenchProduct& product);

  const Context& context_;
  DeviceTimer& timer_;
  bool check_;
  cuda::CublasLtProbe cublaslt_;
};

/// The host's cost of launching an empty kernel, and of the first problem of every op and class that can run;
/// with `control` cuBLASLt's beside. To be called before CUPTI is loaded, which adds to every launch.
std::vector<HostCost> host_costs(std::span<const ListedProblem> problems, const Context& context,
                                 bool control);

/// The time of every problem as one CUDA graph, by events; not measured where a problem cannot run. To be
/// called before CUPTI is loaded, which holds up every kernel of a graph.
std::vector<Timing> graph_timings(std::span<const ListedProblem> problems, const Context& context,
                                  const DeviceTimerOptions& options);

/// "NVIDIA H200, 132 SMs"
std::string describe_device(const Context& context);

}  // namespace fathom
