// Measures fp8_gemm_nt and bf16_gemm_nt against oneDNN's bf16 product (its f32 product where it has none in
// bf16 for the CPU) and against the machine's read bandwidth.
//
// Weights are cold: copies are rotated, so that they come from memory. Fathom, oneDNN and the bandwidth are
// measured in turns (A B C A B C ...) because clock and memory drift; figures are medians, ratios are ratios
// of medians.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "bench.hpp"
#include "commit.hpp"
#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "roof.hpp"

#ifdef FATHOM_HAVE_DNNL
#include <dnnl.hpp>
#endif

namespace {
using fathom::Buffer;
using fathom::Context;
using fathom::DType;
using Clock = std::chrono::steady_clock;

struct Shape {
  std::int64_t n;
  std::int64_t k;
};
constexpr Shape kShapes[] = {{2112, 7168}, {4096, 7168}, {7168, 2048}, {1536, 384}, {384, 1024}};
constexpr std::int64_t kRows[] = {1, 4, 16, 64, 256, 1024};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// Runs for about `budget` seconds after a short warm-up and appends the time of every run.
void measure(const std::function<void(std::int64_t)>& run, double budget, std::int64_t& count,
             std::vector<double>& times) {
  const auto warm = Clock::now();
  do run(count++);
  while (seconds_since(warm) < budget / 4);
  const auto start = Clock::now();
  do {
    const auto before = Clock::now();
    run(count++);
    times.push_back(seconds_since(before));
  } while (seconds_since(start) < budget);
}

// Pseudo-random bytes; every byte is a finite e4m3 code, every pair a bf16 of moderate size.
void fill(Buffer& buffer, bool bf16) {
  std::uint64_t state = 0x9e3779b97f4a7c15u;
  auto* bytes = reinterpret_cast<std::uint8_t*>(buffer.data());
  for (std::int64_t i = 0; i < buffer.size(); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    bytes[i] = static_cast<std::uint8_t>(state >> 56 & 0xf7);
    if (bf16 && i % 2 == 1) bytes[i] = static_cast<std::uint8_t>(0x3f | (state >> 40 & 0x80));
  }
}

// Reads 256 MiB on all threads.
class Bandwidth {
 public:
  explicit Bandwidth(const Context& context) : context_(context), buffer_(kBytes) {
    std::memset(buffer_.data(), 1, kBytes);
  }
  double gigabytes_per_second() {
    const auto* words = reinterpret_cast<const std::uint64_t*>(buffer_.data());
    const auto start = Clock::now();
    context_.parallel_for(kBytes / 8, 1 << 17, [&](std::int64_t begin, std::int64_t end) {
      sink_ += fathom::roof_detail::read_words(words + begin, end - begin);
    });
    return static_cast<double>(kBytes) / seconds_since(start) / 1e9;
  }

 private:
  static constexpr std::int64_t kBytes = 256 << 20;
  const Context& context_;
  Buffer buffer_;
  std::atomic<std::uint64_t> sink_ = 0;
};

// What oneDNN can multiply on this CPU; no type: nothing, and why.
struct PeerType {
  std::string name;
  std::int64_t size = 0;
  std::string note;
};

#ifdef FATHOM_HAVE_DNNL
dnnl::memory::data_type dnnl_type(const PeerType& type) {
  return type.size == 2 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

// type x type -> f32, weights in the layout oneDNN asks for.
dnnl::matmul::primitive_desc describe(const PeerType& type, std::int64_t m, Shape shape,
                                      const dnnl::engine& cpu) {
  using dnnl::memory;
  const memory::desc a({m, shape.k}, dnnl_type(type), memory::format_tag::ab);
  const memory::desc b({shape.k, shape.n}, dnnl_type(type), memory::format_tag::any);
  const memory::desc out({m, shape.n}, memory::data_type::f32, memory::format_tag::ab);
  return {dnnl::matmul::desc(a, b, out), cpu};
}

PeerType peer_type() {
  std::string note;
  for (PeerType type : {PeerType{"bf16", 2, ""}, PeerType{"f32", 4, ""}}) {
    try {
      describe(type, 16, {256, 256}, dnnl::engine(dnnl::engine::kind::cpu, 0));
      type.note = note;
      return type;
    } catch (const dnnl::error& error) {
      note += (note.empty() ? "" : "; ") + type.name + ": " + error.what();
    }
  }
  return {"", 0, note};
}

// With weights packed beforehand.
std::function<void(std::int64_t)> peer_product(const PeerType& type, std::int64_t m, Shape shape) {
  using namespace dnnl;
  const std::int64_t copies = fathom::cold_copies(type.size * shape.n * shape.k);
  const engine cpu(engine::kind::cpu, 0);
  stream queue(cpu);
  const memory::desc plain({shape.k, shape.n}, dnnl_type(type), memory::format_tag::ba);
  const matmul::primitive_desc description = describe(type, m, shape, cpu);
  // Its kernels read beyond the end of the left operand: a block of rows more.
  auto a_buffer = std::make_shared<Buffer>((m + 64) * shape.k * type.size);
  auto plain_buffer = std::make_shared<Buffer>(shape.n * shape.k * type.size);
  fill(*a_buffer, true);  // pairs of bf16 are moderate as f32, too
  fill(*plain_buffer, true);
  memory source(plain, cpu, plain_buffer->data());
  const memory out(description.dst_desc(), cpu);
  std::vector<memory> weights;
  for (std::int64_t i = 0; i < copies; ++i) {
    weights.emplace_back(description.weights_desc(), cpu);
    reorder(source, weights.back()).execute(queue, source, weights.back());
  }
  const matmul product(description);
  return [=](std::int64_t run) mutable {
    const memory a(description.src_desc(), cpu, a_buffer->data());
    product.execute(queue, {{DNNL_ARG_SRC, a},
                            {DNNL_ARG_WEIGHTS, weights[static_cast<std::size_t>(run) % weights.size()]},
                            {DNNL_ARG_DST, out}});
    queue.wait();
  };
}
#else
PeerType peer_type() { return {"", 0, "built without oneDNN"}; }
std::function<void(std::int64_t)> peer_product(const PeerType&, std::int64_t, Shape) { return nullptr; }
#endif

std::shared_ptr<Buffer> filled(std::int64_t bytes, bool bf16) {
  auto buffer = std::make_shared<Buffer>(bytes);
  fill(*buffer, bf16);
  return buffer;
}

// `b` holds `copies` weights.
std::function<void(std::int64_t)> fathom_fp8(std::int64_t m, Shape shape, std::int64_t copies,
                                             const std::shared_ptr<Buffer>& b, const Context& context) {
  const std::int64_t n = shape.n;
  const std::int64_t k = shape.k;
  const auto a = filled(m * k, false);
  const auto a_scale = fathom::bench_normal(DType::f32, {m, (k + 127) / 128});
  const auto b_scale = fathom::bench_normal(DType::f32, {(n + 127) / 128, (k + 127) / 128});
  auto out = std::make_shared<Buffer>(m * n * 4);
  return [=, &context](std::int64_t run) {
    const std::int64_t copy = run % copies;
    fathom::fp8_gemm_nt({.a = a->view(DType::f8e4m3, {m, k}),
                         .a_scale = a_scale->view(DType::f32, {m, (k + 127) / 128}),
                         .b = b->view(DType::f8e4m3, {copies * n, k}).rows(copy * n, copy * n + n),
                         .b_scale = b_scale->view(DType::f32, {(n + 127) / 128, (k + 127) / 128}),
                         .out = out->view(DType::f32, {m, n})},
                        context);
  };
}

std::function<void(std::int64_t)> fathom_bf16(std::int64_t m, Shape shape, std::int64_t copies,
                                              const std::shared_ptr<Buffer>& b, const Context& context) {
  const std::int64_t n = shape.n;
  const std::int64_t k = shape.k;
  const auto a = filled(m * k * 2, true);
  auto out = std::make_shared<Buffer>(m * n * 4);
  return [=, &context](std::int64_t run) {
    const std::int64_t copy = run % copies;
    fathom::bf16_gemm_nt({.a = a->view(DType::bf16, {m, k}),
                          .b = b->view(DType::bf16, {copies * n, k}).rows(copy * n, copy * n + n),
                          .out = out->view(DType::f32, {m, n})},
                         context);
  };
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

// The first line a command prints.
std::string output_of(const char* command) {
  char line[128] = {};
  if (FILE* pipe = popen(command, "r"); pipe != nullptr) {
    if (std::fgets(line, sizeof line, pipe) == nullptr) line[0] = 0;
    pclose(pipe);
  }
  line[std::strcspn(line, "\n")] = 0;
  return line;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

}  // namespace

// peers_cpu [--rounds N] [--seconds S] [--threads T] [--shape N,K] [--rows M] [--commit HASH] [--json FILE]
int main(int argc, char** argv) {
  int rounds = 4;
  double budget = 0.08;
  int threads = 0;
  Shape only{0, 0};
  std::int64_t only_rows = 0;
  std::string commit;
  std::string json_path;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    const std::string value = argv[i + 1];
    if (option == "--rounds") rounds = std::stoi(value);
    if (option == "--seconds") budget = std::stod(value);
    if (option == "--threads") threads = std::stoi(value);
    if (option == "--shape") only = {std::stoll(value), std::stoll(value.substr(value.find(',') + 1))};
    if (option == "--rows") only_rows = std::stoll(value);
    if (option == "--commit") commit = value;
    if (option == "--json") json_path = value;
  }
  const Context context({.threads = threads});
  const Context one({.threads = 1});
  Bandwidth bandwidth(context);
  Bandwidth bandwidth_one(one);
  std::vector<double> single;
  for (int i = 0; i < 5; ++i) single.push_back(bandwidth_one.gigabytes_per_second());

  if (commit.empty()) commit = fathom::built_from_commit();
  const PeerType peer = peer_type();
  nlohmann::json report = {{"cpu", cpu_name()},
                           {"cores", std::thread::hardware_concurrency()},
                           {"memory_gb", sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE) >> 30},
                           {"system", output_of("uname -sm")},
                           {"target", fathom::cpu_target()},
                           {"threads", context.threads()},
                           {"date", today()},
                           {"commit", commit},
                           {"read_gb_per_s_1_thread", median(single)},
                           {"onednn_type", peer.name},
                           {"onednn_note", peer.note},
                           {"rows", nlohmann::json::array()}};
  std::printf("%s, %s, %d threads, read bandwidth of one thread %.1f GB/s\n", cpu_name().c_str(),
              std::string(fathom::cpu_target()).c_str(), context.threads(), median(single));
  std::printf("oneDNN: %s (%s)\n", peer.size == 0 ? "absent" : peer.name.c_str(),
              peer.note.empty() ? "weights packed ahead" : peer.note.c_str());
  std::printf("cold weights, GFLOP/s\n%6s %6s %6s %9s %9s %9s %8s %8s %9s %9s\n", "n", "k", "m", "fp8",
              "bf16", "oneDNN", "fp8/1DNN", "bf16/1D", "fp8 GB/s", "read GB/s");
  for (const Shape shape : kShapes) {
    if (only.n != 0 && (shape.n != only.n || shape.k != only.k)) continue;
    const std::int64_t fp8_copies = fathom::cold_copies(shape.n * shape.k);
    const std::int64_t bf16_copies = fathom::cold_copies(2 * shape.n * shape.k);
    const auto fp8_weights = filled(fp8_copies * shape.n * shape.k, false);
    const auto bf16_weights = filled(bf16_copies * shape.n * shape.k * 2, true);
    for (const std::int64_t m : kRows) {
      if (only_rows != 0 && m != only_rows) continue;
      const double flops = 2.0 * static_cast<double>(m * shape.n) * static_cast<double>(shape.k);
      const double bytes = static_cast<double>(shape.n * shape.k);
      const auto fp8 = fathom_fp8(m, shape, fp8_copies, fp8_weights, context);
      const auto bf16 = fathom_bf16(m, shape, bf16_copies, bf16_weights, context);
      std::int64_t counts[3] = {};
      std::vector<double> fp8_times;
      std::vector<double> bf16_times;
      std::vector<double> peer_times;
      std::vector<double> reads;
      const auto product = peer.size == 0 ? nullptr : peer_product(peer, m, shape);
      for (int round = 0; round < rounds; ++round) {
        measure(fp8, budget, counts[0], fp8_times);
        if (m <= 4) {
          for (int i = 0; i < 3; ++i) reads.push_back(bandwidth.gigabytes_per_second());
        }
        measure(bf16, budget, counts[1], bf16_times);
        if (product == nullptr) continue;
        measure(product, budget, counts[2], peer_times);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));  // its threads spin for a while
      }
      const double fp8_rate = flops / median(fp8_times) / 1e9;
      const double bf16_rate = flops / median(bf16_times) / 1e9;
      const double peer_rate = peer_times.empty() ? 0 : flops / median(peer_times) / 1e9;
      const double read = median(reads);
      const double fp8_bytes = bytes / median(fp8_times) / 1e9;
      std::printf("%6lld %6lld %6lld %9.0f %9.0f %9.0f %8.2f %8.2f %9.1f %9.1f\n",
                  static_cast<long long>(shape.n), static_cast<long long>(shape.k), static_cast<long long>(m),
                  fp8_rate, bf16_rate, peer_rate, peer_rate > 0 ? fp8_rate / peer_rate : 0,
                  peer_rate > 0 ? bf16_rate / peer_rate : 0, fp8_bytes, read);
      std::fflush(stdout);
      report["rows"].push_back({{"n", shape.n},
                                {"k", shape.k},
                                {"m", m},
                                {"fp8_gflops", fp8_rate},
                                {"bf16_gflops", bf16_rate},
                                {"fp8_weight_gb_per_s", fp8_bytes},
                                {"read_gb_per_s", read}});
      if (peer_rate > 0) report["rows"].back()["onednn_" + peer.name + "_gflops"] = peer_rate;
    }
  }
  if (!json_path.empty()) std::ofstream(json_path) << report.dump(1) << "\n";
}
