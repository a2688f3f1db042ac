#include "fathom/engine/problems.hpp"

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

#include "fathom/core/problem.hpp"
#include "fathom/engine/plan.hpp"
#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/dsa_attention.hpp"
#include "fathom/ops/dsa_metadata.hpp"
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/fp8_linear.hpp"
#include "fathom/ops/head_gate.hpp"
#include "fathom/ops/linear_bf16_fp32.hpp"
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "fathom/ops/moe_combine.hpp"
#include "fathom/ops/moe_forward.hpp"
#include "fathom/ops/moe_permute.hpp"
#include "fathom/ops/moe_route.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul.hpp"
#include "fathom/ops/silu_mul_quant.hpp"

namespace fathom {
namespace {

// Denser where plans change: every number of drafts, then the sizes of tiles and chunks, and some that make
// an odd number of tiles.
constexpr std::int64_t kRows[] = {1,   2,   3,    4,    5,    6,    7,    8,    12,   16,  24,
                                  32,  40,  48,   64,   96,   128,  192,  256,  384,  512, 640,
                                  768, 960, 1024, 2048, 2112, 2560, 3968, 4095, 4096, 8192};

using Shapes = std::set<std::pair<std::int64_t, std::int64_t>>;  // [n, k]

void add_fp8(const Shapes& shapes, std::vector<std::string>& problems) {
  for (const auto& [n, k] : shapes) {
    for (const std::int64_t m : kRows) {
      Fp8GemmNtProblem problem{.m = m, .n = n, .k = k, .out = DType::f32};
      problems.push_back(problem_string(problem));
      problem.accumulate = true;
      problems.push_back(problem_string(problem));
      problems.push_back(problem_string(Fp8GemmNtProblem{.m = m, .n = n, .k = k, .out = DType::bf16}));
      problems.push_back(problem_string(Fp8GemmNtProblem{.m = m, .n = n, .k = k, .decode = true}));
      if (m > 16) continue;  // more are quantised first
      for (const bool decode : {false, true})
        problems.push_back(problem_string(Fp8LinearProblem{.m = m, .n = n, .k = k, .decode = decode}));
    }
  }
}

void add_bf16(const Shapes& shapes, std::vector<std::string>& problems) {
  for (const auto& [n, k] : shapes) {
    for (const std::int64_t m : kRows) {
      problems.push_back(problem_string(LinearBf16Fp32Problem{.m = m, .n = n, .k = k}));
      Bf16GemmNtProblem problem{.m = m, .n = n, .k = k, .out = DType::f32, .accumulate = true};
      problems.push_back(problem_string(problem));
      problem.accumulate = false;
      problems.push_back(problem_string(problem));
      problems.push_back(problem_string(Bf16GemmNtProblem{.m = m, .n = n, .k = k, .out = DType::bf16}));
      problems.push_back(problem_string(Bf16GemmNtProblem{.m = m, .n = n, .k = k, .decode = true}));
    }
  }
}

void add_head_gate(const ModelConfig& config, std::vector<std::string>& problems) {
  for (const std::int64_t tokens : kRows) {
    for (const bool decode : {false, true}) {
      problems.push_back(problem_string(HeadGateProblem{
          .tokens = tokens, .heads = config.index_n_heads, .hidden = config.hidden_size, .decode = decode}));
    }
  }
}

// All launches of dsa_attention and of the metadata that it reads: in every mode, by rows and by context.
void add_attention(const ModelConfig& config, std::vector<std::string>& problems) {
  constexpr std::int64_t kContexts[] = {1024, 4096, 8192, 16384, 32768, 65536, 131072, 163840};
  const DType weight = config.quantization_config ? DType::f8e4m3 : DType::bf16;
  problems.push_back(problem_string(DsaMetadataProblem{}));
  DsaAttentionProblem layer{.hidden = config.hidden_size,
                            .heads = config.num_attention_heads,
                            .q_lora = config.q_lora_rank,
                            .lora = config.kv_lora_rank,
                            .nope = config.qk_nope_head_dim,
                            .rope = config.qk_rope_head_dim,
                            .value = config.v_head_dim,
                            .index_heads = config.index_n_heads,
                            .index_dim = config.index_head_dim,
                            .index_topk = config.index_topk,
                            .weight = weight,
                            .absorbed = weight};
  // As decode, but that one launch scores all drafts of a request.
  layer.mode = ForwardMode::target_verify;
  layer.batch = 1;
  for (layer.rows = 2; layer.rows <= 8; ++layer.rows) problems.push_back(problem_string(layer));
  for (const std::int64_t rows : kRows) {
    for (const std::int64_t context : kContexts) {
      for (const ForwardMode mode : {ForwardMode::extend, ForwardMode::decode}) {
        layer.mode = mode;
        layer.rows = rows;
        layer.max_seqlen_k = std::max(context, rows);
        layer.batch = mode == ForwardMode::extend ? 1 : rows;
        layer.keys = mode == ForwardMode::extend ? layer.max_seqlen_k : 0;
        for (const DType kv : {DType::u8, DType::bf16}) {
          layer.kv = kv;
          problems.push_back(problem_string(layer));
        }
      }
    }
  }
}

// What quantises activations: kernels depend on dtypes and layouts, hardly on sizes.
void add_activations(const ModelConfig& config, std::vector<std::string>& problems) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t k :
         {config.hidden_size, config.intermediate_size, config.moe_intermediate_size}) {
      problems.push_back(problem_string(QuantizeGroupsProblem{.k = k, .x = dtype}));
      problems.push_back(problem_string(SiluMulProblem{.dim = k, .gate_up = dtype, .out = dtype}));
      for (const std::int64_t experts : {std::int64_t{0}, config.n_routed_experts}) {
        for (const std::int64_t rows : {1, 4096})  // experts of many rows take turns
          problems.push_back(problem_string(
              SiluMulQuantProblem{.experts = experts, .rows = rows, .dim = k, .gate_up = dtype}));
      }
    }
  }
}

// What surrounds the products of experts, for few tokens and for many.
void add_experts(const ModelConfig& config, std::vector<std::string>& problems) {
  problems.push_back(problem_string(MoeRouteProblem{
      .experts = config.n_routed_experts,
      .n_group = config.n_group,
      .topk_group = config.topk_group,
      .top_k = config.num_experts_per_tok,
      .scoring = config.scoring_func == "softmax" ? RouterScoring::softmax : RouterScoring::sigmoid}));
  for (const std::int64_t tokens : {1, 4096}) {
    for (const DType dtype : {DType::f8e4m3, DType::bf16, DType::f32}) {
      problems.push_back(problem_string(MoePermuteProblem{.tokens = tokens,
                                                          .top_k = config.num_experts_per_tok,
                                                          .groups = config.n_routed_experts,
                                                          .dim = config.hidden_size,
                                                          .x = dtype}));
    }
  }
  for (const DType y : {DType::f32, DType::bf16}) {
    for (const DType out : {DType::f32, DType::bf16}) {
      problems.push_back(problem_string(MoeCombineProblem{.dim = config.hidden_size, .y = y, .out = out}));
    }
  }
}

// All launches of moe_forward, from one token to a long chunk.
void add_mixtures(const ModelConfig& config, std::vector<std::string>& problems) {
  if (config.n_routed_experts == 0 || config.num_hidden_layers <= config.first_k_dense_replace) return;
  for (const std::int64_t tokens : kRows) {
    MoeForwardProblem problem{.tokens = tokens,
                              .top_k = config.num_experts_per_tok,
                              .experts = config.n_routed_experts,
                              .hidden = config.hidden_size,
                              .intermediate = config.moe_intermediate_size,
                              .shared = config.n_shared_experts * config.moe_intermediate_size,
                              .layout = moe_forward_layout(tokens)};
    problems.push_back(problem_string(problem));
    if (config.n_shared_experts != 1) continue;
    problem.shared = 0;  // the shared expert as one of the others
    problem.common = true;
    ++problem.top_k;
    ++problem.experts;
    problems.push_back(problem_string(problem));
  }
}

// Routed experts: gate and up as one product and down, by rows of a group.
void add_expert_products(const ModelConfig& config, bool fp8, std::vector<std::string>& problems) {
  const std::int64_t groups = config.n_routed_experts;
  if (groups == 0 || config.num_hidden_layers <= config.first_k_dense_replace) return;
  const std::pair<std::int64_t, std::int64_t> shapes[] = {
      {2 * config.moe_intermediate_size, config.hidden_size},
      {config.hidden_size, config.moe_intermediate_size}};
  const auto add = [&]<class Problem>(Problem problem, std::int64_t expected) {
    problem.groups = groups;
    problem.expected_m = expected;
    problem.out = DType::bf16;
    problem.layout = GroupLayout::masked;
    problem.rows = 4096;
    problems.push_back(problem_string(problem));
    problem.rows = groups * expected;
    for (const GroupLayout layout : {GroupLayout::offsets, GroupLayout::contiguous}) {
      problem.layout = layout;
      problems.push_back(problem_string(problem));
    }
  };
  for (const auto& [n, k] : shapes) {
    for (const std::int64_t expected :
         {1, 4, 8, 12, 20, 32, 44, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096}) {
      if (fp8) {
        add(MGroupedFp8GemmNtProblem{.n = n, .k = k}, expected);
      } else {
        add(MGroupedBf16GemmNtProblem{.n = n, .k = k}, expected);
      }
    }
  }
}

void add_model(const ModelConfig& config, Shapes& fp8, Shapes& bf16) {
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    const bool product =
        tensor.rank == 2 && (tensor.kind == TensorKind::matrix || tensor.kind == TensorKind::plain);
    if (!product || tensor.routed_expert || tensor.name.ends_with("embed_tokens.weight")) continue;
    const auto [n, k] = tensor.shape;
    Shapes& shapes = tensor.kind == TensorKind::matrix && config.quantization_config ? fp8 : bf16;
    shapes.emplace(n, k);
    if (tensor.name.ends_with("gate_proj.weight")) shapes.emplace(2 * n, k);  // gate and up as one
  }
}

// Of a model, and of products of further shapes.
std::vector<std::string> problems_of(const ModelConfig& config, Shapes fp8, Shapes bf16) {
  add_model(config, fp8, bf16);
  std::vector<std::string> problems;
  add_fp8(fp8, problems);
  add_bf16(bf16, problems);
  add_head_gate(config, problems);
  add_attention(config, problems);
  add_activations(config, problems);
  add_experts(config, problems);
  if (config.quantization_config) add_mixtures(config, problems);
  add_expert_products(config, config.quantization_config.has_value(), problems);
  return problems;
}

}  // namespace

std::vector<std::string> model_problems(const ModelConfig& config) { return problems_of(config, {}, {}); }

std::vector<std::string> deepseek_v32_problems() {
  ModelConfig config;
  config.vocab_size = 129280;
  config.hidden_size = 7168;
  config.num_hidden_layers = 4;  // of 61: three dense ones, and all others are alike
  config.num_nextn_predict_layers = 1;
  config.num_attention_heads = 128;
  config.q_lora_rank = 1536;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 128;
  config.index_n_heads = 64;
  config.index_head_dim = 128;
  config.intermediate_size = 18432;
  config.first_k_dense_replace = 3;
  config.n_routed_experts = 256;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = 8;
  config.n_group = 8;
  config.topk_group = 4;
  config.moe_intermediate_size = 2048;
  config.quantization_config = QuantizationConfig{};
  // What a fusion of q_a with kv_a, and a split over devices, make of these.
  Shapes fp8{{2112, 7168},  {576, 7168},  {24576, 1536}, {32768, 512},
             {7168, 16384}, {4096, 7168}, {7168, 2048}};
  Shapes bf16 = fp8;
  bf16.emplace(64, 7168);
  bf16.emplace(256, 7168);
  std::vector<std::string> problems = problems_of(config, std::move(fp8), std::move(bf16));
  for (const std::int64_t experts : {256, 8}) {  // all of them, and those of one device of 32
    config.n_routed_experts = experts;
    for (const bool quantized : {true, false}) add_expert_products(config, quantized, problems);
  }
  return problems;
}

}  // namespace fathom
