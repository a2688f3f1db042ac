// What `fathom bench` says of a device: rows, how they compare with the peers, a table, JSON.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "accuracy.hpp"
#include "device_timer.hpp"
#include "peers.hpp"

namespace fathom {

struct BenchRow {
  std::string set;
  std::string text;     // of the problem, as written
  std::string problem;  // canonical
  std::string error;    // why it could not run; then nothing below holds
  double bytes = 0;
  double flops = 0;
  DType arithmetic = DType::bf16;  // of the flops, as in BenchCase
  Timing timing;
  Timing graph;  // of the run as one CUDA graph, between events; not measured unless asked for
  std::map<std::string, Timing> control;  // "cublaslt" (of the same formats), "cublaslt_bf16"
  std::optional<Accuracy> accuracy;
};

struct HostCost {
  std::string problem;
  double us = 0;
  double launch_us = 0;               // of an empty kernel, of that; 0: not measured
  std::optional<double> cublaslt_us;  // of a bf16 product of the same size
};

struct BenchReport {
  std::string device;
  std::string driver;
  std::string nvrtc;
  std::string commit;
  std::string date;
  std::string method;
  std::string control;  // which cuBLASLt, or why none
  std::vector<HostCost> host_costs;
  std::vector<BenchRow> rows;
};

/// A row beside the peers. A peer's figure holds on its own device only, and only kernel time is compared,
/// and only of runs that found the caches emptied.
struct Comparison {
  std::optional<double> floor_us;
  std::string peer;  // the fastest
  std::optional<double> peer_us;
  std::optional<double> ratio;   // our mean through the peer's
  bool through_control = false;  // the control differs from its recorded figure by more than 3 %: both are
                                 // divided by theirs
};
Comparison compare(const BenchRow& row, const Peers& peers, const std::string& device);

/// The geometric mean of the ratios of every set that has some, in the order of the rows.
struct SetMean {
  std::string set;
  int rows = 0;
  double mean = 0;
  double worst = 0;
};
std::vector<SetMean> set_means(const BenchReport& report, const Peers& peers);

/// The table, line by line, so that a row can be printed as soon as it is measured.
std::string table_head(int width);
std::string table_row(const BenchRow& row, const Comparison& comparison, int width);
/// The time of the graph, the gaps between its kernels, and the kernels, a line each; empty without a graph.
std::string graph_lines(const BenchRow& row);
std::string table_end(const BenchReport& report, const Peers& peers);

/// A table for every set.
std::string report_markdown(const BenchReport& report, const Peers& peers);
/// What --check found wrong and what could not run, a line each; none: all is well.
std::vector<std::string> report_failures(const BenchReport& report);
std::string report_json(const BenchReport& report, const Peers& peers);
/// Our time through the peer's as bars, a panel for every set; for light and dark backgrounds.
std::string report_svg(const BenchReport& report, const Peers& peers);

}  // namespace fathom
