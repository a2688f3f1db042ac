// The plot of a report: SVG without any font, script or file of others.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report.hpp"

namespace fathom {
namespace {

constexpr double kWidth = 860;
constexpr double kLabel = 300;  // of the column with the problems
constexpr double kRight = 70;
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

std::string panel(const SetMean& set, const std::vector<Bar>& bars, double top, double most) {
  const double scale = (kWidth - kLabel - kRight) / most;
  const double first = top + kHead;
  const double bottom = first + kStep * static_cast<double>(bars.size());
  std::string svg = words(12, top + 18, "set", "start", set.set.empty() ? "all problems" : set.set);
  svg += words(kWidth - 12, top + 18, "small", "end",
               fmt::format("geometric mean {:.3f}, worst {:.3f}", set.mean, set.worst));
  for (double tick = 0; tick <= most + 1e-9; tick += most > 3 ? 1 : 0.25) {
    svg += line(kLabel + scale * tick, first - 4, bottom, tick == 1 ? "one" : "grid");
    svg += words(kLabel + scale * tick, bottom + 14, "small", "middle", fmt::format("{:.2f}", tick));
  }
  svg += line(kLabel + scale * set.mean, first - 4, bottom, "mean");
  double y = first;
  for (const Bar& bar : bars) {
    svg += words(kLabel - 8, y + kBar - 2, "", "end", bar.label);
    svg += fmt::format(
        "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"2\"/>\n",
        bar.ratio <= 1 ? "faster" : "slower", kLabel, y, scale * bar.ratio, kBar);
    svg += words(kLabel + scale * bar.ratio + 5, y + kBar - 2, "", "start", fmt::format("{:.2f}", bar.ratio));
    y += kStep;
  }
  return svg;
}

}  // namespace

std::string report_svg(const BenchReport& report, const Peers& peers) {
  const std::vector<SetMean> sets = set_means(report, peers);
  std::string body;
  double y = 64;
  for (const SetMean& set : sets) {
    std::vector<Bar> bars;
    for (const BenchRow& row : report.rows) {
      const std::optional<double> ratio = compare(row, peers, report.device).ratio;
      if (row.set == set.set && ratio) bars.push_back({row.text, *ratio});
    }
    const double most = std::max(1.25, std::ceil(set.worst * 4) / 4);
    body += panel(set, bars, y, most);
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
