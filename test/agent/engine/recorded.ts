/** Answers of engines, in the form that the named version documents, with what they mean. */
export interface RecordedEngine {
  readonly engine: string;
  readonly version: string;
  readonly versionAnswer: string;
  readonly modelsAnswer: string;
  readonly models: readonly string[];
  readonly load?: {
    readonly text: string;
    readonly means: { readonly running: number; readonly waiting: number };
  };
}

export const recorded: readonly RecordedEngine[] = [
  {
    // GET /version, /v1/models, /metrics: docs.vllm.ai, v0.12.0.
    engine: "vllm",
    version: "0.12.0",
    versionAnswer: '{"version":"0.12.0"}',
    modelsAnswer: JSON.stringify({
      object: "list",
      data: [
        {
          id: "m1",
          object: "model",
          created: 1_764_000_000,
          owned_by: "vllm",
          root: "/models/llama",
          parent: null,
          max_model_len: 32_768,
          permission: [{ id: "modelperm-1", object: "model_permission", allow_sampling: true, group: null }],
        },
      ],
    }),
    models: ["m1"],
    load: {
      text: `# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m1"} 3.0
vllm:num_requests_running{engine="1",model_name="m1"} 2.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m1"} 1.0
vllm:num_requests_waiting{engine="1",model_name="m1"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m1"} 0.25
`,
      means: { running: 5, waiting: 1 },
    },
  },
  {
    // GET /server_info, /v1/models, /metrics: docs.sglang.io, 0.5.19.
    engine: "sglang",
    version: "0.5.19",
    versionAnswer: JSON.stringify({ model_path: "/models/llama", tp_size: 2, version: "0.5.19" }),
    modelsAnswer: JSON.stringify({
      object: "list",
      data: [{ id: "m1", object: "model", created: 1, owned_by: "sglang", root: "m1", max_model_len: 4096 }],
    }),
    models: ["m1"],
    load: {
      text: `# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="m1",pp_rank="0",tp_rank="0"} 4.0
sglang:num_running_reqs{engine_type="unified",model_name="m1",pp_rank="0",tp_rank="1"} 4.0
sglang:num_running_reqs{engine_type="unified",model_name="m1",priority="1",tp_rank="0"} 4.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{engine_type="unified",model_name="m1",pp_rank="0",tp_rank="0"} 2.0
`,
      means: { running: 4, waiting: 2 },
    },
  },
  {
    // GET /props, /v1/models, /metrics: tools/server/README.md of llama.cpp, build 8681.
    engine: "llamacpp",
    version: "b8681-0123abc",
    versionAnswer: JSON.stringify({ model_alias: "m1", total_slots: 4, build_info: "b8681-0123abc" }),
    modelsAnswer: JSON.stringify({
      object: "list",
      data: [
        {
          id: "m1",
          object: "model",
          created: 1_764_000_000,
          owned_by: "llamacpp",
          meta: { vocab_type: 2, n_vocab: 128_256, n_ctx_train: 131_072, n_params: 8_030_261_312 },
        },
      ],
    }),
    models: ["m1"],
    load: {
      text: `# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 1
`,
      means: { running: 2, waiting: 1 },
    },
  },
  {
    // GET /api/version, /api/tags: docs/api.md of Ollama, 0.5.1.
    engine: "ollama",
    version: "0.5.1",
    versionAnswer: '{"version":"0.5.1"}',
    modelsAnswer: JSON.stringify({
      models: [
        {
          name: "codellama:13b",
          modified_at: "2023-11-04T14:56:49.277302595-07:00",
          size: 7_365_960_935,
          digest: "9f438cb9cd58",
          details: { format: "gguf", family: "llama", families: null, parameter_size: "13B" },
        },
        { name: "llama3.2:latest", size: 3_825_819_519, digest: "fe938a131f40", details: { format: "gguf" } },
      ],
    }),
    models: ["codellama:13b", "llama3.2:latest", "llama3.2"],
  },
];
