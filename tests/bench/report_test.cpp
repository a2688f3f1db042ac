// Lists of problems, the peers' figures, and what is written of given rows.
#include "report.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "ops/op_test.hpp"
#include "problem_list.hpp"

namespace fathom {
namespace {

constexpr const char* kPeers = R"({"device": "H200", "method": "by hand",
  "floor": {"bytes_per_second": 4e12, "fp8_flops_per_second": 2e15, "bf16_flops_per_second": 1e15},
  "rows": [{"problem": "fp8_gemm_nt:m=1,n=256,k=512", "us": {"deepgemm": 10, "cublaslt": 8}},
           {"problem": "bf16_gemm_nt:m=1,n=256,k=512", "us": {"deepgemm": 5}},
           {"problem": "top_k:rows=64,n=8192,k=2048", "needs": "something", "us": {"torch": 5}}]})";

Peers peers() { return {kPeers, "peers.json"}; }

Timing cupti(std::vector<double> us) {
  return {.method = "cupti", .us = std::move(us), .kernels = {"gemm", "gemm", "reduce"}, .note = {}};
}

BenchRow row_of(const std::string& text, Timing timing) {
  BenchRow row;
  row.set = "set <1>";
  row.text = text;
  row.problem = canonical_problem(text);
  row.bytes = 8e6;
  row.flops = 2e9;
  if (text.starts_with("fp8")) row.arithmetic = DType::f8e4m3;
  row.timing = std::move(timing);
  return row;
}

constexpr const char* kDevice = "NVIDIA H200, 132 SMs";

TEST(Peers, BuiltInFileHasEverySet) {
  const Peers built_in = Peers::built_in();
  EXPECT_EQ(built_in.device(), "NVIDIA H200");
  EXPECT_DOUBLE_EQ(built_in.floor().bytes_per_second, 4.3e12);
  const auto us = [&](const std::string& text) { return built_in.find(canonical_problem(text)); };
  EXPECT_DOUBLE_EQ(us("fp8_gemm_nt:m=512,n=7168,k=16384").at("deepgemm"), 116.8);
  EXPECT_DOUBLE_EQ(us("fp8_gemm_nt:m=512,n=7168,k=16384").at("cublaslt"), 102.0);
  EXPECT_DOUBLE_EQ(us("linear_bf16_fp32:m=64,n=256,k=7168,decode=1").at("cublaslt"), 7.39);
  EXPECT_DOUBLE_EQ(us("top_k:rows=64,n=65536,k=2048").at("torch"), 92.7);
  EXPECT_DOUBLE_EQ(
      us("m_grouped_fp8_gemm_nt:groups=32,rows=4096,n=4096,k=7168,layout=masked,out=bf16,expected_m=20")
          .at("deepgemm"),
      239.43);
  EXPECT_TRUE(us("fp8_gemm_nt:m=2,n=7168,k=16384").empty());
}

TEST(Peers, LookUpIgnoresTheClassAndRowsThatNeedMore) {
  const Peers some = peers();
  EXPECT_EQ(some.size(), 2u);
  EXPECT_EQ(some.find(canonical_problem("fp8_gemm_nt:m=1,n=256,k=512,decode=1,aligned=0")).size(), 2u);
  EXPECT_TRUE(some.find(canonical_problem("fp8_gemm_nt:m=1,n=256,k=512,out=f32")).empty());
}

TEST(Peers, RefusesOtherFiles) {
  EXPECT_ERROR(FileError, "x.json: ", (void)Peers("{}", "x.json"));
  std::string twice = kPeers;
  twice.replace(twice.find("bf16_gemm_nt:m"), 14, "fp8_gemm_nt:m");
  EXPECT_ERROR(FileError, "x.json: has fp8_gemm_nt:m=1,n=256,k=512,", (void)Peers(twice, "x.json"));
  std::string unknown = kPeers;
  unknown.replace(unknown.find("bf16_gemm_nt:m"), 14, "xf16_gemm_nt:m");
  EXPECT_ERROR(FileError, "no op is named 'xf16_gemm_nt'", (void)Peers(unknown, "x.json"));
}

TEST(Compare, TheFastestPeerAndTheFloor) {
  BenchRow row = row_of("fp8_gemm_nt:m=1,n=256,k=512", cupti({3, 5}));
  Comparison found = compare(row, peers(), kDevice);
  EXPECT_EQ(found.peer, "cublaslt");
  EXPECT_DOUBLE_EQ(*found.peer_us, 8);
  EXPECT_DOUBLE_EQ(*found.ratio, 0.5);
  EXPECT_FALSE(found.through_control);
  EXPECT_DOUBLE_EQ(*found.floor_us, 2);  // 8 MB at 4 TB/s; the flops need 1 us
  row.flops = 4e9;
  row.problem = canonical_problem("moe_forward");  // the peak is that of the arithmetic, whatever the name
  EXPECT_DOUBLE_EQ(*compare(row, peers(), kDevice).floor_us, 2);
  row.arithmetic = DType::bf16;
  EXPECT_DOUBLE_EQ(*compare(row, peers(), kDevice).floor_us, 4);
  EXPECT_FALSE(compare(row, peers(), "NVIDIA L4").ratio.has_value());
  EXPECT_FALSE(compare(row, peers(), "NVIDIA L4").floor_us.has_value());
}

TEST(Compare, EventsAreComparedWithNothing) {
  BenchRow row = row_of("fp8_gemm_nt:m=1,n=256,k=512", cupti({3, 5}));
  row.timing.method = "events";
  const Comparison found = compare(row, peers(), kDevice);
  EXPECT_TRUE(found.peer_us.has_value());
  EXPECT_FALSE(found.ratio.has_value());
}

TEST(Compare, HotRunsAreComparedWithNothing) {
  BenchRow row = row_of("fp8_gemm_nt:m=1,n=256,k=512", cupti({3, 5}));
  row.timing.hot = true;
  row.control["cublaslt"] = cupti({8});
  const Comparison found = compare(row, peers(), kDevice);
  EXPECT_FALSE(found.peer_us.has_value());
  EXPECT_FALSE(found.ratio.has_value());
  EXPECT_FALSE(found.floor_us.has_value());  // operands in a cache need less
  BenchReport all;
  all.device = kDevice;
  all.rows.push_back(row);
  EXPECT_TRUE(set_means(all, peers()).empty());
  EXPECT_TRUE(nlohmann::json::parse(report_json(all, peers())).at("rows")[0].at("hot").get<bool>());
}

TEST(Compare, TheControlFillsGapsAndShowsDrift) {
  BenchRow row = row_of("bf16_gemm_nt:m=1,n=256,k=512", cupti({4}));
  row.control["cublaslt"] = cupti({2});
  Comparison found = compare(row, peers(), kDevice);
  EXPECT_EQ(found.peer, "cublaslt");
  EXPECT_DOUBLE_EQ(*found.ratio, 2);
  row.control["cublaslt"].method = "events";
  EXPECT_EQ(compare(row, peers(), kDevice).peer, "deepgemm");

  row = row_of("fp8_gemm_nt:m=1,n=256,k=512", cupti({4}));
  row.control["cublaslt"] = cupti({8.2});  // 2.5 % more than recorded
  EXPECT_DOUBLE_EQ(*compare(row, peers(), kDevice).ratio, 0.5);
  row.control["cublaslt"] = cupti({16});
  found = compare(row, peers(), kDevice);
  EXPECT_TRUE(found.through_control);
  EXPECT_DOUBLE_EQ(*found.ratio, 0.25);
}

BenchReport report() {
  BenchReport all;
  all.device = kDevice;
  all.commit = "abc123";
  all.date = "2026-01-02";
  all.host_costs.push_back({"scale", 1.25, 1, 2.5});
  all.rows.push_back(row_of("fp8_gemm_nt:m=1,n=256,k=512", cupti({4, 4})));     // 0.5
  all.rows.push_back(row_of("bf16_gemm_nt:m=1,n=256,k=512", cupti({10, 10})));  // 2
  all.rows.back().accuracy = Accuracy{.rows = 8, .columns = 256, .calc_diff = 1e-7, .bound = 2e-5};
  all.rows.push_back(row_of("scale", cupti({1})));
  all.rows.back().set = "no peer";
  all.rows.push_back(row_of("rms_norm", {}));
  all.rows.back().error = "no implementation for cuda:0";
  return all;
}

TEST(Report, GeometricMeansOfSets) {
  const std::vector<SetMean> means = set_means(report(), peers());
  ASSERT_EQ(means.size(), 1u);
  EXPECT_EQ(means[0].set, "set <1>");
  EXPECT_EQ(means[0].rows, 2);
  EXPECT_DOUBLE_EQ(means[0].mean, 1);
  EXPECT_DOUBLE_EQ(means[0].worst, 2);
}

TEST(Report, TableShowsFiguresKernelsAndErrors) {
  const BenchReport all = report();
  const auto line = [&](std::size_t i) {
    return table_row(all.rows[i], compare(all.rows[i], peers(), kDevice), 30);
  };
  EXPECT_NE(line(0).find("cupti"), std::string::npos);
  EXPECT_NE(line(0).find(" 50%"), std::string::npos) << line(0);
  EXPECT_NE(line(0).find(" 0.500 "), std::string::npos) << line(0);
  EXPECT_NE(line(0).find("3: 2 gemm + reduce"), std::string::npos) << line(0);
  EXPECT_NE(line(1).find("calc_diff 1.00e-07, c 2.00e-05"), std::string::npos) << line(1);
  EXPECT_EQ(line(3).find("error: no implementation for cuda:0\n"), 31u) << line(3);
  const std::string end = table_end(all, peers());
  EXPECT_NE(end.find("geometric mean 1.000, worst 2.000 of 2 ratios: set <1>"), std::string::npos) << end;
  EXPECT_NE(end.find("host cost of a warm call 1.25 us, 0.25 above an empty launch (cuBLASLt 2.50): scale"),
            std::string::npos)
      << end;
}

TEST(Report, AGraphShowsItsGapsAndKernels) {
  BenchReport all = report();
  EXPECT_EQ(graph_lines(all.rows[0]), "");
  all.rows[0].graph = {.method = "events", .us = {5, 5}, .kernels = {}, .kernel_us = {}, .note = {}};
  all.rows[0].timing.kernel_us = {1.5, 1.5, 1};
  const std::string lines = graph_lines(all.rows[0]);
  EXPECT_NE(lines.find("one CUDA graph 5.00 us (min 5.00), 3 kernels 4.00, between them 1.00 (20.0 %)"),
            std::string::npos)
      << lines;
  EXPECT_NE(lines.find("1.00  reduce\n"), std::string::npos) << lines;
  const auto row = nlohmann::json::parse(report_json(all, peers())).at("rows")[0];
  EXPECT_DOUBLE_EQ(row.at("gaps_us").get<double>(), 1);
  EXPECT_EQ(row.at("kernel_us").size(), 3u);
  all.rows[0].timing.method = "events";  // its mean holds the gaps
  EXPECT_EQ(graph_lines(all.rows[0]), "  one CUDA graph 5.00 us (min 5.00)\n");
  EXPECT_FALSE(nlohmann::json::parse(report_json(all, peers())).at("rows")[0].contains("gaps_us"));
  all.rows[0].graph = {};
  all.rows[0].graph.note = "it waits";
  EXPECT_EQ(graph_lines(all.rows[0]), "  no CUDA graph: it waits\n");
}

TEST(Report, JsonHasEveryRow) {
  const auto json = nlohmann::json::parse(report_json(report(), peers()));
  EXPECT_EQ(json.at("commit"), "abc123");
  ASSERT_EQ(json.at("rows").size(), 4u);
  const auto& row = json.at("rows")[0];
  EXPECT_EQ(row.at("problem"), "fp8_gemm_nt:m=1,n=256,k=512");
  EXPECT_EQ(row.at("canonical"), canonical_problem("fp8_gemm_nt:m=1,n=256,k=512"));
  EXPECT_DOUBLE_EQ(row.at("us").get<double>(), 4);
  EXPECT_EQ(row.at("kernels").size(), 3u);
  EXPECT_DOUBLE_EQ(row.at("of_floor").get<double>(), 0.5);
  EXPECT_DOUBLE_EQ(row.at("ratio").get<double>(), 0.5);
  EXPECT_DOUBLE_EQ(json.at("rows")[1].at("accuracy").at("c").get<double>(), 2e-5);
  EXPECT_FALSE(json.at("rows")[2].contains("ratio"));
  EXPECT_EQ(json.at("rows")[3].at("error"), "no implementation for cuda:0");
  EXPECT_FALSE(json.at("rows")[3].contains("us"));
  EXPECT_DOUBLE_EQ(json.at("sets")[0].at("geometric_mean_ratio").get<double>(), 1);
}

TEST(Report, ResultsThatAreNotFiniteAreShownAndFail) {
  BenchReport all = report();
  EXPECT_EQ(report_failures(all), std::vector<std::string>{"1 of 4 problems could not run"});
  all.rows.pop_back();
  EXPECT_TRUE(report_failures(all).empty());
  all.rows[1].accuracy->calc_diff = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(report_failures(all),
            std::vector<std::string>{"bf16_gemm_nt:m=1,n=256,k=512: the result is not finite"});
  const std::string line = table_row(all.rows[1], compare(all.rows[1], peers(), kDevice), 30);
  EXPECT_NE(line.find("calc_diff not finite, c 2.00e-05"), std::string::npos) << line;
  EXPECT_EQ(nlohmann::json::parse(report_json(all, peers())).at("rows")[1].at("accuracy").at("calc_diff"),
            "not finite");
}

TEST(Report, JsonIsUtf8WhateverItIsTold) {
  BenchReport all = report();
  all.rows[0].set = "na\xefve";
  EXPECT_EQ(nlohmann::json::parse(report_json(all, peers())).at("rows")[0].at("set"), "na\xef\xbf\xbdve");
}

TEST(Report, MarkdownHasATableForEverySet) {
  const std::string text = report_markdown(report(), peers());
  EXPECT_NE(text.find("**set <1>**: geometric mean 1.000, worst 2.000\n"), std::string::npos) << text;
  EXPECT_NE(text.find("**no peer**\n"), std::string::npos) << text;
  EXPECT_NE(
      text.find(
          "| `fp8_gemm_nt:m=1,n=256,k=512` | 4.00 | 4.00 | 8.00 cublaslt | 0.500 | 2.00 | 500 | 50 % |"),
      std::string::npos)
      << text;
  EXPECT_NE(text.find("| `rms_norm` | could not run |"), std::string::npos) << text;
}

TEST(Report, PlotDrawsEveryRatioAndEscapesNames) {
  const std::string svg = report_svg(report(), peers());
  EXPECT_EQ(svg.find("<svg xmlns="), 0u);
  std::size_t bars = 0;
  for (std::size_t at = 0; (at = svg.find("<rect", at)) != std::string::npos; ++at) ++bars;
  EXPECT_EQ(bars, 2u);
  EXPECT_NE(svg.find("class=\"faster\""), std::string::npos);
  EXPECT_NE(svg.find("class=\"slower\""), std::string::npos);
  EXPECT_NE(svg.find("set &lt;1&gt;"), std::string::npos);
  EXPECT_EQ(svg.find("set <1>"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_EQ(svg.find("no peer"), std::string::npos);
  EXPECT_NE(svg.find("set &lt;1&gt;: fp8_gemm_nt, bf16_gemm_nt<"), std::string::npos);
  EXPECT_NE(svg.find(">m=1 n=256 k=512<"), std::string::npos);
  EXPECT_NE(report_svg({}, peers()).find("No problem has kernel time"), std::string::npos);
}

TEST(ProblemList, SetsAndComments) {
  const std::string file = ::testing::TempDir() + "fathom_problem_list.txt";
  std::ofstream(file) << ("scale:rows=2 # first\n[a set]\n\n scale : dim = 8\n[other]\nrms_norm\n");
  const std::vector<ListedProblem> list = read_problems(file);
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0].set, "");
  EXPECT_EQ(list[1].set, "a set");
  EXPECT_EQ(list[1].text, "scale:dim=8");
  EXPECT_EQ(list[1].canonical, "scale:rows=1,dim=8,dtype=f32");
  EXPECT_EQ(list[2].set, "other");
  std::ofstream(file) << "# na\xefve\nscale\n[na\xefve]\nscale\n";
  EXPECT_ERROR(FileError, file + ":3: the name is not UTF-8", (void)read_problems(file));
}

}  // namespace
}  // namespace fathom
