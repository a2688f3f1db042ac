#include "report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace fathom {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr double kDrift = 0.03;

std::string number(std::optional<double> value, int digits) {
  return value ? fmt::format("{:.{}f}", *value, digits) : "-";
}

std::string scientific(double value) {
  return std::isfinite(value) ? fmt::format("{:.2e}", value) : "not finite";
}

std::optional<double> control_us(const BenchRow& row, const std::string& name) {
  const auto found = row.control.find(name);
  if (found == row.control.end() || !found->second.kernel_time()) return std::nullopt;
  return found->second.mean();
}

// "gemm.a + reduce.b", or "3 gemm.a" if one kernel ran three times in a row.
std::string kernel_list(const std::vector<std::string>& kernels) {
  std::string text;
  for (std::size_t i = 0; i < kernels.size();) {
    std::size_t end = i;
    while (end < kernels.size() && kernels[end] == kernels[i]) ++end;
    text += fmt::format("{}{}{}", text.empty() ? "" : " + ", end - i > 1 ? fmt::format("{} ", end - i) : "",
                        kernels[i].substr(0, kernels[i].find('(')));
    i = end;
  }
  return text;
}

// JSON has no NaN and no infinity.
OrderedJson finite_json(double value) {
  return std::isfinite(value) ? OrderedJson(value) : OrderedJson("not finite");
}

OrderedJson timing_json(const Timing& timing) {
  OrderedJson json{{"timing", timing.method},  {"us", timing.mean()},      {"us_median", timing.median()},
                   {"us_min", timing.least()}, {"runs", timing.us.size()}, {"kernels", timing.kernels}};
  if (timing.kernel_us.size() > 1) json["kernel_us"] = timing.kernel_us;
  if (timing.hot) json["hot"] = true;
  if (!timing.note.empty()) json["note"] = timing.note;
  return json;
}

}  // namespace

Comparison compare(const BenchRow& row, const Peers& peers, const std::string& device) {
  Comparison result;
  if (peers.device().empty() || device.find(peers.device()) == std::string::npos) return result;
  if (row.timing.hot) return result;
  const PeerFloor& floor = peers.floor();
  const double flops_per_second =
      row.arithmetic == DType::f8e4m3 ? floor.fp8_flops_per_second : floor.bf16_flops_per_second;
  result.floor_us = 1e6 * std::max(row.bytes / floor.bytes_per_second, row.flops / flops_per_second);
  std::map<std::string, double> recorded = peers.find(row.problem);
  const std::optional<double> control = control_us(row, "cublaslt");
  double drift = 1;
  if (control) {
    const auto [place, fresh] = recorded.try_emplace("cublaslt", *control);
    if (!fresh && std::abs(*control / place->second - 1) > kDrift) drift = *control / place->second;
  }
  for (const auto& [name, us] : recorded) {
    if (result.peer_us && us >= *result.peer_us) continue;
    result.peer_us = us;
    result.peer = name;
  }
  if (result.peer_us && row.timing.kernel_time()) {
    result.through_control = drift != 1;
    result.ratio = row.timing.mean() / (*result.peer_us * drift);
  }
  return result;
}

std::vector<SetMean> set_means(const BenchReport& report, const Peers& peers) {
  std::vector<SetMean> means;
  for (const BenchRow& row : report.rows) {
    const std::optional<double> ratio = compare(row, peers, report.device).ratio;
    if (!ratio) continue;
    auto found =
        std::find_if(means.begin(), means.end(), [&](const SetMean& mean) { return mean.set == row.set; });
    if (found == means.end()) found = means.insert(means.end(), SetMean{row.set});
    ++found->rows;
    found->mean += std::log(*ratio);
    found->worst = std::max(found->worst, *ratio);
  }
  for (SetMean& mean : means) mean.mean = std::exp(mean.mean / mean.rows);
  return means;
}

std::string table_head(int width) {
  return fmt::format(
      "{:<{}} {:>8} {:>8} {:>8} {:>6} {:>8} {:>9} {:>6} {:>7} {:>6} {:>8} {:>8} {:>8} {:>6}  {}\n", "problem",
      width, "mean us", "median", "min", "time", "MB", "GFLOP", "TB/s", "TFLOP/s", "floor", "cuBLASLt",
      "Lt bf16", "peer us", "ratio", "kernels");
}

std::string table_row(const BenchRow& row, const Comparison& comparison, int width) {
  if (!row.error.empty()) return fmt::format("{:<{}} error: {}\n", row.text, width, row.error);
  const double us = row.timing.mean();
  const auto per_second = [&](double amount) {
    return us > 0 && amount > 0 ? std::optional(amount / us * 1e-6) : std::nullopt;
  };
  std::string line = fmt::format(
      "{:<{}} {:>8.2f} {:>8.2f} {:>8.2f} {:>6} {:>8.2f} {:>9.2f} {:>6} {:>7} {:>6} {:>8} {:>8} {:>8} {:>6}  "
      "{}",
      row.text, width, us, row.timing.median(), row.timing.least(), row.timing.method, row.bytes * 1e-6,
      row.flops * 1e-9, number(per_second(row.bytes), 2), number(per_second(row.flops), 1),
      comparison.floor_us && us > 0 ? fmt::format("{:.0f}%", 100 * *comparison.floor_us / us) : "-",
      number(control_us(row, "cublaslt"), 2), number(control_us(row, "cublaslt_bf16"), 2),
      number(comparison.peer_us, 2),
      comparison.ratio ? fmt::format("{:.3f}{}", *comparison.ratio, comparison.through_control ? "*" : "")
                       : "-",
      row.timing.kernels.empty()
          ? "unknown"
          : fmt::format("{}: {}", row.timing.kernels.size(), kernel_list(row.timing.kernels)));
  if (row.accuracy)
    line += fmt::format("; calc_diff {}, c {}", scientific(row.accuracy->calc_diff),
                        scientific(row.accuracy->bound));
  if (!row.timing.note.empty()) line += fmt::format("; {}", row.timing.note);
  return line + "\n";
}

std::string graph_lines(const BenchRow& row) {
  if (!row.error.empty()) return "";
  if (!row.graph.measured())
    return row.graph.note.empty() ? "" : fmt::format("  no CUDA graph: {}\n", row.graph.note);
  const double us = row.graph.mean();
  if (!row.timing.kernel_time())
    return fmt::format("  one CUDA graph {:.2f} us (min {:.2f})\n", us, row.graph.least());
  const double gaps = us - row.timing.mean();
  std::string text = fmt::format(
      "  one CUDA graph {:.2f} us (min {:.2f}), {} kernels {:.2f}, between them {:.2f} ({:.1f} %)\n", us,
      row.graph.least(), row.timing.kernels.size(), row.timing.mean(), gaps, us > 0 ? 100 * gaps / us : 0);
  for (std::size_t i = 0; i < row.timing.kernel_us.size(); ++i)
    text += fmt::format("    {:>9.2f}  {}\n", row.timing.kernel_us[i], row.timing.kernels[i]);
  return text;
}

std::string table_end(const BenchReport& report, const Peers& peers) {
  std::string text;
  for (const SetMean& mean : set_means(report, peers)) {
    text += fmt::format("geometric mean {:.3f}, worst {:.3f} of {} ratios: {}\n", mean.mean, mean.worst,
                        mean.rows, mean.set.empty() ? "all" : mean.set);
  }
  const auto drifted = std::count_if(report.rows.begin(), report.rows.end(), [&](const BenchRow& row) {
    return compare(row, peers, report.device).through_control;
  });
  if (drifted > 0) {
    text += fmt::format(
        "* cuBLASLt took more than {:.0f} % longer or shorter than when the peers were measured: our time "
        "through its time now, the peer's through its time then\n",
        100 * kDrift);
  }
  for (const HostCost& cost : report.host_costs) {
    text += fmt::format(
        "host cost of a warm call {:.2f} us{}{}: {}\n", cost.us,
        cost.launch_us > 0 ? fmt::format(", {:.2f} above an empty launch", cost.us - cost.launch_us) : "",
        cost.cublaslt_us ? fmt::format(" (cuBLASLt {:.2f})", *cost.cublaslt_us) : "", cost.problem);
  }
  return text;
}

std::string report_markdown(const BenchReport& report, const Peers& peers) {
  std::string text =
      fmt::format("{}, {}, commit {}. {}.\n", report.device, report.date, report.commit, report.method);
  const std::vector<SetMean> means = set_means(report, peers);
  const std::string* set = nullptr;
  for (const BenchRow& row : report.rows) {
    if (set == nullptr || *set != row.set) {
      set = &row.set;
      const auto mean =
          std::find_if(means.begin(), means.end(), [&](const SetMean& m) { return m.set == row.set; });
      text += fmt::format(
          "\n**{}**{}\n\n| problem | us | median | peer us | ratio | TB/s | TFLOP/s | of floor |\n"
          "|---|---|---|---|---|---|---|---|\n",
          row.set.empty() ? "All problems" : row.set,
          mean == means.end()
              ? ""
              : fmt::format(": geometric mean {:.3f}, worst {:.3f}", mean->mean, mean->worst));
    }
    if (!row.error.empty()) {
      text += fmt::format("| `{}` | could not run | | | | | | |\n", row.text);
      continue;
    }
    const Comparison comparison = compare(row, peers, report.device);
    const double us = row.timing.mean();
    text +=
        fmt::format("| `{}` | {:.2f}{} | {:.2f} | {} | {}{} | {:.2f} | {} | {} |\n", row.text, us,
                    row.timing.kernel_time() ? "" : " (events)", row.timing.median(),
                    comparison.peer_us ? fmt::format("{:.2f} {}", *comparison.peer_us, comparison.peer) : "",
                    comparison.ratio ? fmt::format("{:.3f}", *comparison.ratio) : "",
                    comparison.through_control ? " (control)" : "", row.bytes / us * 1e-6,
                    row.flops > 0 ? fmt::format("{:.0f}", row.flops / us * 1e-6) : "",
                    comparison.floor_us ? fmt::format("{:.0f} %", 100 * *comparison.floor_us / us) : "");
  }
  return text;
}

std::vector<std::string> report_failures(const BenchReport& report) {
  std::vector<std::string> lines;
  const auto failed =
      std::ranges::count_if(report.rows, [](const BenchRow& row) { return !row.error.empty(); });
  if (failed > 0) lines.push_back(fmt::format("{} of {} problems could not run", failed, report.rows.size()));
  for (const BenchRow& row : report.rows) {
    if (row.accuracy && !std::isfinite(row.accuracy->calc_diff))
      lines.push_back(fmt::format("{}: the result is not finite", row.text));
  }
  return lines;
}

std::string report_json(const BenchReport& report, const Peers& peers) {
  OrderedJson json{{"device", report.device}, {"driver", report.driver}, {"nvrtc", report.nvrtc},
                   {"date", report.date},     {"commit", report.commit}, {"method", report.method}};
  json["control"] = report.control;
  json["peers"] = peers.method();
  json["sets"] = OrderedJson::array();
  for (const SetMean& mean : set_means(report, peers)) {
    json["sets"].push_back({{"set", mean.set},
                            {"rows", mean.rows},
                            {"geometric_mean_ratio", mean.mean},
                            {"worst_ratio", mean.worst}});
  }
  json["host_cost_us"] = OrderedJson::array();
  for (const HostCost& cost : report.host_costs) {
    json["host_cost_us"].push_back({{"problem", cost.problem}, {"us", cost.us}});
    if (cost.launch_us > 0) json["host_cost_us"].back()["above_empty_launch_us"] = cost.us - cost.launch_us;
    if (cost.cublaslt_us) json["host_cost_us"].back()["cublaslt_us"] = *cost.cublaslt_us;
  }
  json["rows"] = OrderedJson::array();
  for (const BenchRow& row : report.rows) {
    OrderedJson entry{{"set", row.set}, {"problem", row.text}, {"canonical", row.problem}};
    if (!row.error.empty()) {
      entry["error"] = row.error;
      json["rows"].push_back(std::move(entry));
      continue;
    }
    entry.update(timing_json(row.timing));
    if (row.graph.measured()) {
      entry["graph_us"] = row.graph.mean();
      entry["graph_us_min"] = row.graph.least();
      if (row.timing.kernel_time()) entry["gaps_us"] = row.graph.mean() - row.timing.mean();
    }
    const double us = row.timing.mean();
    entry["bytes"] = row.bytes;
    entry["flops"] = row.flops;
    entry["arithmetic"] = to_string(row.arithmetic);
    if (us > 0) {
      entry["tb_per_s"] = row.bytes / us * 1e-6;
      entry["tflops"] = row.flops / us * 1e-6;
    }
    const Comparison comparison = compare(row, peers, report.device);
    if (comparison.floor_us) {
      entry["floor_us"] = *comparison.floor_us;
      if (us > 0) entry["of_floor"] = *comparison.floor_us / us;
    }
    if (comparison.peer_us) {
      entry["peer"] = comparison.peer;
      entry["peer_us"] = *comparison.peer_us;
    }
    if (comparison.ratio) {
      entry["ratio"] = *comparison.ratio;
      entry["ratio_through_control"] = comparison.through_control;
    }
    for (const auto& [name, timing] : row.control) {
      if (timing.measured()) {
        entry["control"][name] = timing_json(timing);
      } else {
        entry["control"][name] = {{"error", timing.note}};
      }
    }
    if (row.accuracy) {
      entry["accuracy"] = {{"rows", row.accuracy->rows},
                           {"columns", row.accuracy->columns},
                           {"calc_diff", finite_json(row.accuracy->calc_diff)},
                           {"c", finite_json(row.accuracy->bound)}};
    }
    json["rows"].push_back(std::move(entry));
  }
  // Names of sets and devices, and errors, are the words of others.
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace fathom
