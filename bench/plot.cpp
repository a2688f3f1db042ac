// The plot of a report: SVG without any font, script or file of others.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report.hpp"

namespace fathom {
namespace {

constexpr double kWidth = 860;
constexpr double kLabel = 240;  // of the column with the problems
constexpr double kRight = 70;   // of the column with the ratios
constexpr double kTick = 0.25;
constexpr double kBar = 12;
constexpr double kStep = 18;
constexpr double kHead = 34;  // of a panel: its name
constexpr double kFoot = 30;  // of a panel: its axis

constexpr std::string_view kStyle = R"(<style>
text { font: 12px system-ui, sans-serif; fill: #222 }
.title { font-size: 16px; font-weight: 600 }
.set { font-size: 13px; font-weight: 600 }
.small { font-size: 11px; fill: #666 }
.faster { fill: #2f7ed8 } .slower { fill: #d9822b }
.grid { stroke: #ddd } .one { stroke: #222; stroke-width: 1.5 }
.mean { stroke: #777; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .small { fill: #999 } .faster { fill: #5aa2f0 } .slower { fill: #f0a050 }
.grid { stroke: #444 } .one { stroke: #ddd } .mean { stroke: #999 }
}
</style>
)";

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '&':
        result += "&amp;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

struct Bar {
  std::string label;
  double ratio;
};

std::string line(double x, double top, double bottom, std::string_view style) {
  return fmt::format("<line class=\"{}\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", style,
                     x, x, top, bottom);
}

std::string words(double x, double y, std::string_view style, std::string_view anchor,
                  std::string_view text) {
  return fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", style, x,
                     y, anchor, escaped(text));
}

// The sizes alone, blank-separated: "m=1 n=576 k=7168".
std::string sizes_of(const std::string& problem) {
  std::string sizes;
  std::size_t begin = problem.find(':');
  begin = begin == std::string::npos ? problem.size() : begin + 1;
  while (begin < problem.size()) {
    const std::size_t end = std::min(problem.find(',', begin), problem.size());
    const std::string_view field = std::string_view(problem).substr(begin, end - begin);
    if (!field.starts_with("decode=")) sizes.append(sizes.empty() ? "" : " ").append(field);
    begin = end + 1;
  }
  return sizes;
}

std::string panel(const SetMean& set, const std::vector<Bar>& bars, const std::string& op, double top,
                  double most) {
  const double scale = (kWidth - kLabel - kRight) / most;
  const double first = top + kHead;
  const double bottom = first + kStep * static_cast<double>(bars.size());
  std::string svg = words(12, top + 18, "set", "start", set.set.empty() ? op : set.set + ": " + op);
  svg += words(kWidth - 12, top + 18, "small", "end",
               fmt::format("geometric mean {:.3f}, worst {:.3f}", set.mean, set.worst));
  for (int tick = 0; tick * kTick <= most + 1e-9; ++tick) {
    const double x = kLabel + scale * kTick * tick;
    svg += line(x, first - 4, bottom, "grid");
    svg += words(x, bottom + 14, "small", "middle", fmt::format("{:.2f}", kTick * tick));
  }
  double y = first;
  for (const Bar& bar : bars) {
    svg += words(kLabel - 8, y + kBar - 2, "", "end", bar.label);
    svg +=
        fmt::format("<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n",
                    bar.ratio <= 1 ? "faster" : "slower", kLabel, y, scale * std::min(bar.ratio, most), kBar);
    svg += words(kWidth - 12, y + kBar - 2, "", "end", fmt::format("{:.2f}", bar.ratio));
    y += kStep;
  }
  svg += line(kLabel + scale, first - 4, bottom, "one");
  svg += line(kLabel + scale * std::min(set.mean, most), first - 4, bottom, "mean");
  return svg;
}

}  // namespace

std::string report_svg(const BenchReport& report, const Peers& peers) {
  const std::vector<SetMean> sets = set_means(report, peers);
  // One scale for all panels, so that they can be compared; longer bars end at its end.
  double most = 1.25;
  for (const SetMean& set : sets) most = std::clamp(std::ceil(set.worst / kTick) * kTick, most, 2.0);
  std::string body;
  double y = 64;
  for (const SetMean& set : sets) {
    std::vector<Bar> bars;
    std::string ops;
    for (const BenchRow& row : report.rows) {
      const std::optional<double> ratio = compare(row, peers, report.device).ratio;
      if (row.set != set.set || !ratio) continue;
      const std::string op = row.text.substr(0, row.text.find(':'));
      if (ops.find(op) == std::string::npos) ops += (ops.empty() ? "" : ", ") + op;
      bars.push_back({sizes_of(row.text), *ratio});
    }
    body += panel(set, bars, ops, y, most);
    y += kHead + kStep * static_cast<double>(bars.size()) + kFoot;
  }
  if (sets.empty()) {
    body += words(12, y + 14, "", "start", "No problem has kernel time and a peer to compare it with.");
    y += 30;
  }
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" role=\"img\">\n",
      kWidth, y);
  svg += kStyle;
  svg += words(12, 26, "title", "start", "Kernel time through the best peer's: below 1 is faster");
  svg += words(12, 46, "small", "start",
               fmt::format("{}; {}; commit {}", report.device, report.date, report.commit));
  return svg + body + "</svg>\n";
}

}  // namespace fathom
