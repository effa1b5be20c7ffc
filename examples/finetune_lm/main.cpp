// SPDX-License-Identifier: MIT
//
// Fine-tunes a language model of the Llama family on a CPU, evaluates it and generates text. docs/finetune_lm.md
// explains the commands with real output.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <new>

#include "commands.hpp"
#include "train.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif
#include <unistd.h>

namespace {

using namespace finetune_lm;

/// Threads of OpenMP that wait busily are ten times slower beside another process. The runtime reads this setting when
/// it is loaded, so the program starts itself again with it.
void wait_asleep(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", argv);  // where this fails, the program goes on as it is
}

void add_model(CLI::App& command, ModelOptions& model, bool weights = true) {
  command.add_option("--model", model.folder,
                     "folder of a Hugging Face checkpoint, or a GGUF (default: a tiny random model)");
  command.add_option("--chat-template", model.chat_template, "a file, or chatml (default: the model's own)");
  if (!weights) return;
  command.add_option("--adapter", model.adapter, "folder of an adapter, or llama.cpp's file");
  command
      .add_option("--base", model.base, "how the frozen weights are held (default: float32, or as they lie in a GGUF)")
      ->check(CLI::IsMember({"float32", "bfloat16", "int8", "nf4"}));
  command.add_option("--engine", model.engine, "what multiplies them")
      ->check(CLI::IsMember({"eigen", "onednn"}))
      ->capture_default_str();
  command.add_option("--bf16-terms", model.bf16_terms, "of activations on a bfloat16 base with oneDNN: 2 are as float")
      ->check(CLI::Range(1, 2))
      ->capture_default_str();
}

void add_generation(CLI::App& command, lm::GenerationOptions& o, std::string& group) {
  command.add_option("--max-tokens", o.max_tokens, "at most")->check(CLI::Range(1, 1 << 24));
  command.add_option("--temperature", o.temperature, "0: greedy")->check(CLI::NonNegativeNumber);
  command.add_option("--top-p", o.top_p, "nucleus")->check(CLI::Range(0.0, 1.0));
  command.add_option("--seed", o.seed, "of sampling")->check(CLI::NonNegativeNumber);
  command.add_option("--group", group, "name or number, for --gate given");
}

int run(int argc, char** argv) {
  CLI::App app("Fine-tune language models on a CPU");
  app.require_subcommand(0, 1);  // of another word CLI11 would not say which
  int threads = 0;

  TrainOptions t;
  CLI::App& train_command = *app.add_subcommand("train", "fine-tune a model, or go on with --resume");
  add_model(train_command, t.model);
  const auto option = [&](const char* name, auto& value, const char* help) {
    return train_command.add_option(name, value, help)->capture_default_str();
  };
  option("--data,--train_file", t.data, "files of JSON lines (default: text of this machine)");
  option("--validation,--validation_file", t.validation, "files of JSON lines");
  option("--out,--output_dir", t.out, "folder of the run, which becomes the adapter's");
  auto* method = option("--method", t.method, "what is trained");
  method->check(CLI::IsMember({"lora", "split", "split-gated", "hydra", "full"}));
  auto* rank = option("--rank,--lora_r", t.rank, "of A and B")->check(CLI::Range(1, 4096));
  auto* alpha = option("--alpha,--lora_alpha", t.alpha, "scaling = alpha / rank");
  auto* heads = option("--heads,--lora_nums", t.heads, "of split and hydra")->check(CLI::Range(1, 256));
  auto* gate = option("--gate", t.gate, "what hydra's router reads")
                   ->check(CLI::IsMember({"token", "causal", "prompt", "given"}));
  auto* dropout = option("--dropout,--lora_dropout", t.dropout, "of the adapters' input")->check(CLI::Range(0.0, 0.95));
  auto* targets = option("--target-modules,--target_modules", t.target_modules,
                         "names of linears, or one regular expression (default: all but lm_head)");
  auto* layers = option("--layers,--layers_to_transform", t.layers, "numbers of the blocks, from 0 (default: all)");
  option("--learning-rate,--learning_rate", t.learning_rate, "of AdamW")->check(CLI::NonNegativeNumber);
  option("--schedule,--lr_scheduler_type", t.schedule, "of the learning rate")
      ->check(CLI::IsMember({"cosine", "linear", "constant"}));
  option("--warmup-steps,--warmup_steps", t.warmup_steps, "steps of rising rate")->check(CLI::NonNegativeNumber);
  option("--weight-decay,--weight_decay", t.weight_decay, "of AdamW")->check(CLI::NonNegativeNumber);
  option("--beta1,--adam_beta1", t.beta1, "of AdamW")->check(CLI::Range(0.0, 0.99999999));
  option("--beta2,--adam_beta2", t.beta2, "of AdamW")->check(CLI::Range(0.0, 0.99999999));
  option("--epsilon,--adam_epsilon", t.epsilon, "of AdamW")->check(CLI::PositiveNumber);
  option("--max-grad-norm,--max_grad_norm", t.max_grad_norm, "clips the gradient; 0: does not")
      ->check(CLI::NonNegativeNumber);
  option("--steps,--max_steps", t.steps, "of the optimiser (default: --epochs)")->check(CLI::Range(1, 1 << 30));
  option("--epochs,--num_train_epochs", t.epochs, "passes over the data")->check(CLI::Range(1e-9, 1e6));
  option("--micro-batch,--per_device_train_batch_size", t.micro_batch, "documents at a time")
      ->check(CLI::Range(1, 1 << 20));
  option("--pack", t.pack, "or: as many documents as fit into so many tokens")->check(CLI::Range(2, 1 << 24));
  option("--accumulate,--gradient_accumulation_steps", t.accumulate, "micro-batches of a step")
      ->check(CLI::Range(1, 1 << 20));
  option("--max-length,--max_length", t.max_length, "longer examples are left out")->check(CLI::Range(2, 1 << 24));
  train_command.add_flag("--truncate", t.truncate, "longer examples are cut");
  train_command.add_flag("--parse-special-tokens", t.model.parse_special_tokens,
                         "special tokens in messages are no words");
  option("--seed", t.seed, "of the adapters, the order and dropout")->check(CLI::NonNegativeNumber);
  train_command.add_flag("--no-shuffle", t.no_shuffle, "examples in the file's order");
  option("--checkpoint-every,--save_steps", t.checkpoint_every, "steps")->check(CLI::NonNegativeNumber);
  option("--evaluate-every,--eval_steps", t.evaluate_every, "steps")->check(CLI::NonNegativeNumber);
  option("--patience", t.patience, "evaluations without a gain that end the run; 0: none do")
      ->check(CLI::NonNegativeNumber);
  option("--sample", t.sample, "a prompt that every evaluation completes");
  train_command.add_flag("--resume", t.resume, "go on from the last checkpoint in --out");
  train_command.add_flag("--gradient-checkpointing,--gradient_checkpointing", t.gradient_checkpointing,
                         "less memory, a fifth more time");

  EvaluateOptions e;
  CLI::App& evaluate_command = *app.add_subcommand("evaluate", "loss and right answers, per group");
  add_model(evaluate_command, e.model);
  evaluate_command.add_option("--data", e.data, "files of JSON lines")->required();
  evaluate_command.add_option("--max-length", e.max_length, "longer examples are left out")
      ->check(CLI::Range(2, 1 << 24));
  evaluate_command.add_option("--max-tokens", e.max_tokens, "of an answer")->check(CLI::Range(1, 1 << 20));
  evaluate_command.add_flag("--parse-special-tokens", e.model.parse_special_tokens, "as of train");
  evaluate_command.add_flag("--json", e.json, "print JSON");
  evaluate_command.add_flag("--per-example", e.per_example,
                            "print JSON with every example's loss per token and whether its answer is right");

  GenerateOptions g;
  CLI::App& generate_command = *app.add_subcommand("generate", "complete a text or answer a conversation");
  add_model(generate_command, g.model);
  generate_command.add_option("--prompt", g.prompt, "the text");
  generate_command.add_option("--messages", g.messages, "a file with a conversation");
  generate_command.add_flag("--chat", g.chat, "the prompt is a user's message");
  add_generation(generate_command, g.generation, g.group);
  generate_command.add_flag("--ignore-eos", g.ignore_eos, "go on behind end tokens");
  generate_command.add_flag("--json", g.json, "print JSON");

  ChatOptions c;
  CLI::App& chat_command = *app.add_subcommand("chat", "talk with a model");
  add_model(chat_command, c.model);
  add_generation(chat_command, c.generation, c.group);

  TokenizeOptions k;
  CLI::App& tokenize_command = *app.add_subcommand("tokenize", "texts to ids and back");
  add_model(tokenize_command, k.model, false);
  tokenize_command.add_option("--texts", k.texts, "a file: array of texts");
  tokenize_command.add_option("--ids", k.ids, "a file: arrays of ids");
  tokenize_command.add_option("--chats", k.chats, "a file: array of conversations");

  LogitsOptions l;
  CLI::App& logits_command = *app.add_subcommand("logits", "logits and gradients of a batch, as safetensors");
  add_model(logits_command, l.model);
  logits_command.add_option("--batch", l.batch, "a file with documents of ids and labels")->required();
  logits_command.add_option("--out", l.out, "the file")->required();
  logits_command.add_flag("--gradients", l.gradients, "of the mean loss, too");
  logits_command.add_option("--method", l.method, "full: gradients of all weights")->check(CLI::IsMember({"full"}));

  InfoOptions i;
  CLI::App& info_command = *app.add_subcommand("info", "sizes, memory and time, from config.json alone");
  add_model(info_command, i.model);
  info_command.add_option("--rank", i.rank, "of the adapters")->check(CLI::Range(1, 4096));
  info_command.add_option("--heads", i.heads, "of split and hydra")->check(CLI::Range(1, 256));
  info_command.add_option("--tokens", i.tokens, "of a micro-batch")->check(CLI::Range(1, 1 << 24));
  info_command.add_flag("--tensors", i.tensors, "name, type, shape and SHA-256 of every tensor");

  ReportOptions r;
  CLI::App& report_command = *app.add_subcommand("report", "a page about a run: report.html in its folder, --adapter");
  add_model(report_command, r.model);
  report_command.add_option("--data", r.data, "files of JSON lines that were not trained on")->required();
  report_command.add_option("--examples", r.examples, "of every group at most")->check(CLI::Range(1, 1 << 20));
  report_command.add_option("--max-length", r.max_length, "longer examples are left out")
      ->check(CLI::Range(2, 1 << 24));
  report_command.add_option("--max-tokens", r.max_tokens, "of an answer")->check(CLI::Range(1, 1 << 20));

  ExportOptions x;
  CLI::App& export_command = *app.add_subcommand("export", "an adapter for other programs");
  add_model(export_command, x.model);
  export_command.add_option("--to", x.to, "form: merged is the model with the adapter in it")
      ->required()
      ->check(CLI::IsMember({"peft", "gguf-adapter", "merged"}));
  export_command.add_option("--out", x.out, "a new folder, or a new file of llama.cpp")->required();
  export_command.add_option("--type", x.type, "of the matrices of a merged GGUF (default: F16)")
      ->check(CLI::IsMember({"F32", "F16", "BF16", "Q8_0", "Q4_0"}));
  export_command.add_flag("--approximate", x.approximate, "merge a gate's heads with their mean weights over --data");
  export_command.add_option("--data", x.data, "files of JSON lines");

  for (CLI::App* command : app.get_subcommands({})) {
    command->add_option("--threads", threads, "0: all cores")->check(CLI::Range(0, 1024));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::cerr << "finetune_lm: " << error.what() << '\n';
    return 2;
  }
#if defined(_OPENMP)
  if (threads > 0) omp_set_num_threads(threads);
#endif
  if (app.get_subcommands().empty()) throw std::invalid_argument("a command is missing: --help lists them");
  if (train_command.parsed()) {
    if (!t.model.adapter.empty()) {
      for (const CLI::Option* one : {method, rank, alpha, heads, gate, dropout, targets, layers}) {
        if (one->count() > 0) t.given.insert(one->get_name());
      }
    }
    if (t.method == "full" && t.model.adapter.empty() && t.model.base.empty()) t.model.base = "float32";
    return train(t);
  }
  if (evaluate_command.parsed()) evaluate(e);
  if (generate_command.parsed()) generate(g);
  if (chat_command.parsed()) chat(c);
  if (tokenize_command.parsed()) tokenize(k);
  if (logits_command.parsed()) logits(l);
  if (info_command.parsed()) info(i);
  if (report_command.parsed()) report(r);
  if (export_command.parsed()) export_model(x);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  wait_asleep(argv);
  try {
    const int code = run(argc, argv);
    if (!std::cout.flush()) throw std::runtime_error("cannot write to the standard output");
    return code;
  } catch (const std::bad_alloc&) {
    std::cerr << "finetune_lm: there is not enough memory\n";
  } catch (const std::exception& error) {
    std::string message = error.what();
    for (char& c : message) c = c == '\n' ? ' ' : c;
    std::cerr << "finetune_lm: " << message << '\n';
  }
  return 2;
}
