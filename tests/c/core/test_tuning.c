/* Tuning files: what is written is read again, and nothing else is: torn at every byte, changed at every byte, of
 * another version, GPU or library, with lines of garbage. */
#include <sys/stat.h>

#include "fake_backend.h"
#include "tuning_files.h"

static char *read_file(const char *name, size_t *bytes) {
  FILE *file = fopen(name, "rb");
  CHECK(file != NULL);
  char *text = malloc(1 << 16);
  *bytes = fread(text, 1, (1 << 16) - 1, file);
  fclose(file);
  text[*bytes] = '\0';
  return text;
}

/* The file with a last line that fits. */
static void write_signed(const char *name, const char *text, size_t bytes) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
  char *whole = malloc(bytes + 64);
  memcpy(whole, text, bytes);
  const int end = snprintf(whole + bytes, 64, "end %016llx\n", (unsigned long long)hash);
  write_file(name, whole, bytes + (size_t)end);
  free(whole);
}

static void what_is_written_is_read(void) {
  flashmla_tuning_entry many[3] = {dense, dense, dense}, found = FLASHMLA_TUNING_ENTRY_INIT;
  many[0].operation = "sparse_decode", many[0].kernel = NULL, many[0].kv_format = FLASHMLA_KV_V32;
  many[1].batch_from = 1, many[1].batch_to = INT32_MAX, many[1].capacity_from = 0, many[1].capacity_to = INT32_MAX;
  CHECK_OK(flashmla_tuning_save(path, 0, many, 3));
  CHECK_OK(flashmla_tuning_load(path));
  const flashmla_tuning_state state = told(0);
  CHECK(state.count == 3 && strcmp(state.path, path) == 0 && state.problem[0] == '\0');
  CHECK(strcmp(state.gpu, "Fake GPU") == 0 && strcmp(state.kernels, "0123456789abcdef") == 0);
  int seen = 0;
  for (int32_t i = 0; i < 3; ++i) {
    CHECK_OK(flashmla_tuning_at(i, &found));
    if (strcmp(found.operation, "sparse_decode") == 0) {
      CHECK(strcmp(found.kernel, "-") == 0 && found.kv_format == FLASHMLA_KV_V32);
    } else {
      CHECK(strcmp(found.kernel, "fake_cuda") == 0 && strcmp(found.dtype, "bfloat16") == 0 && found.kv_format == 0);
      CHECK(found.batch_to == (found.batch_from == 1 ? INT32_MAX : 4));
      CHECK(found.ns == 12345 && found.default_ns == INT32_MAX && found.num_splits == 3 && found.l2_policy == 2);
    }
    seen += found.batch_from;
  }
  CHECK(seen == 4 + 1 + 4);
  CHECK_STATUS(flashmla_tuning_at(3, &found), FLASHMLA_ERROR_VALUE, "index is 3; it must be in [0, 3)");
  /* What is told is what can be written, and the text is the same. */
  size_t first_bytes, second_bytes;
  flashmla_tuning_entry again[3];
  for (int32_t i = 0; i < 3; ++i) {
    again[i].struct_size = sizeof again[i];
    CHECK_OK(flashmla_tuning_at(i, &again[i]));
  }
  CHECK_OK(flashmla_tuning_save(path, 0, again, 3));
  CHECK_OK(flashmla_tuning_load(path));
  for (int32_t i = 0; i < 3; ++i) again[i].struct_size = 0, again[i].struct_size = sizeof again[i];
  CHECK_OK(flashmla_tuning_save(other, 7, again, 3));
  char *first = read_file(path, &first_bytes), *second = read_file(other, &second_bytes);
  CHECK(first_bytes == second_bytes && memcmp(first, second, first_bytes) == 0);
  free(first);
  free(second);
  CHECK_OK(flashmla_tuning_load(NULL));
  CHECK(told(0).count == 0 && told(0).path[0] == '\0');
}

/* Refused, in words that name the file; what was loaded stays. */
static void refused(const char *words) {
  CHECK_STATUS(flashmla_tuning_load(other), FLASHMLA_ERROR_STATE, other);
  CHECK_STATUS(flashmla_tuning_load(other), FLASHMLA_ERROR_STATE, words);
  CHECK(strcmp(told(0).path, path) == 0 && told(0).count == 1 && told(0).problem[0] == '\0');
}

static void torn_and_changed_everywhere(void) {
  size_t bytes;
  CHECK_OK(flashmla_tuning_save(path, 0, &dense, 1));
  CHECK_OK(flashmla_tuning_load(path));
  char *text = read_file(path, &bytes);
  for (size_t length = 0; length < bytes; ++length) {
    write_file(other, text, length);
    refused(length < strlen("flashmla tuning ") ? "is no tuning file" : "is cut off: its last line is missing");
  }
  for (size_t i = 0; i < bytes; ++i)
    for (int bit = 0; bit < 8; bit += i % 8 == 0 ? 1 : 7) {
      text[i] = (char)(text[i] ^ 1 << bit);
      write_file(other, text, bytes);
      refused("is ");
      text[i] = (char)(text[i] ^ 1 << bit);
    }
  write_file(other, text, bytes);
  CHECK_OK(flashmla_tuning_load(other));
  CHECK_OK(flashmla_tuning_load(path));
  text[bytes] = '\n';
  write_file(other, text, bytes + 1); /* something behind the end */
  refused("is cut off");
  free(text);
}

/* In the text, which is signed anew, `from` becomes `to`. */
static void edited(const char *from, const char *to, const char *words) {
  size_t bytes;
  char *text = read_file(path, &bytes), *end = strstr(text, "end "), *at = strstr(text, from);
  CHECK(at != NULL && at < end);
  char *made = malloc(bytes + strlen(to) + 1);
  const size_t before = (size_t)(at - text), behind = (size_t)(end - at) - strlen(from);
  memcpy(made, text, before);
  memcpy(made + before, to, strlen(to));
  memcpy(made + before + strlen(to), at + strlen(from), behind);
  write_signed(other, made, before + strlen(to) + behind);
  refused(words);
  free(made);
  free(text);
}

static void foreign_and_garbage(void) {
  edited("flashmla tuning 1\n", "flashmla tuning 2\n", "is of version 2; this library reads version 1");
  edited("flashmla tuning 1\n", "flashmla tuning 12345678901234\n", "is cut off");
  edited("flashmla tuning", "flashmla Tuning", "is no tuning file");
  edited("0123456789abcdef", "fedcba9876543210", "is for kernels fedcba9876543210; this library has 0123456789abcdef");
  edited("gpu Fake", "gpu Other", "is for Other GPU with driver 12040; device 0 is Fake GPU with driver 12040");
  edited("driver 12040", "driver 12030", "is for Fake GPU with driver 12030; device 0 is Fake GPU with driver 12040");
  edited("processors 132", "processors 78", "is for Fake GPU");
  edited("processors 132", "processors -1", "has no processors in line 4");
  edited("processors 132", "processors 0132", "has no processors in line 4");
  edited("processors 132", "processors 99999999999", "has no processors in line 4");
  edited("architecture 90\n", "", "has no architecture in line 3");
  edited("gpu Fake GPU\n", "gpu \n", "has no gpu in line 2");
  edited("entry ", "\nentry ", "has no entry in line 7");
  edited("entry ", "entries ", "has no entry in line 7");
  edited("operation=dense_decode", "operation=dense", "has in line 7 a wrong operation");
  edited("dtype=bfloat16", "dtype=any", "has in line 7 a wrong dtype");
  edited("dtype=bfloat16 ", "", "has in line 7 a wrong dtype");
  edited("kv_format=bf16", "kv_format=bf15", "has in line 7 a wrong kv_format");
  edited("kernel=fake_cuda", "kernel=fake_cud", "has in line 7 a wrong kernel");
  edited("kernel=fake_cuda", "kernel=", "has in line 7 a wrong kernel");
  edited("h_q=6", "h_q=0", "has in line 7 a wrong h_q");
  edited("h_q=6", "h_q=", "has in line 7 a wrong h_q");
  edited("h_q=6", "h_q=6x", "has in line 7 a wrong h_q");
  edited("h_q=6", "h_q=+6", "has in line 7 a wrong h_q");
  edited("h_q=6", "h_q=06", "has in line 7 a wrong h_q");
  edited("h_q=6", "h_q=2147483648", "has in line 7 a wrong h_q");
  edited("h_q=6", "h_q=18446744073709551622", "has in line 7 a wrong h_q");
  edited("h_q=6", "h_q=6 h_q=6", "has in line 7 a wrong h_kv");
  edited("h_q=6 h_kv=2", "h_kv=2 h_q=6", "has in line 7 a wrong h_q");
  edited("varlen=0", "varlen=2", "has in line 7 a wrong varlen");
  edited("num_splits=3", "num_splits=1025", "has in line 7 a wrong num_splits");
  edited("l2_policy=first", "l2_policy=last", "has in line 7 a wrong l2_policy");
  edited("batch_to=4", "batch_to=3", "has in line 7 a wrong batch_to");
  edited("capacity_from=192", "capacity_from=193", "has in line 7 a wrong capacity_to");
  edited("default_ns=2147483647\n", "default_ns=2147483647 more=1\n", "has in line 7 a wrong end");
  edited(" default_ns=2147483647\n", "\n", "has in line 7 a wrong default_ns");
  edited(" default_ns=2147483647\n", "", "is cut off: its last line is missing");
}

static void what_is_no_file(void) {
  CHECK_STATUS(flashmla_tuning_load(folder), FLASHMLA_ERROR_STATE, "cannot be read: it is no regular file");
  CHECK_STATUS(flashmla_tuning_load("/nowhere/at/all"), FLASHMLA_ERROR_STATE, "/nowhere/at/all\" cannot be read: ");
  snprintf(other, sizeof other, "%s/pipe", folder);
  CHECK(mkfifo(other, 0600) == 0);
  CHECK_STATUS(flashmla_tuning_load(other), FLASHMLA_ERROR_STATE, "it is no regular file");
  remove(other);
  snprintf(other, sizeof other, "%s/other", folder);
  CHECK(truncate(path, 0) == 0 && truncate(path, (16 << 20) + 1) == 0);
  CHECK_STATUS(flashmla_tuning_load(path), FLASHMLA_ERROR_STATE, "it is larger than 16 MiB");
  char long_name[5000];
  memset(long_name, 'x', sizeof long_name - 1);
  long_name[sizeof long_name - 1] = '\0';
  CHECK_STATUS(flashmla_tuning_load(long_name), FLASHMLA_ERROR_STATE, "\" cannot be read: ");
}

static void what_cannot_be_written(void) {
  flashmla_tuning_entry entry = dense;
  CHECK_STATUS(flashmla_tuning_save(NULL, 0, &entry, 1), FLASHMLA_ERROR_NULL_POINTER, "path is NULL");
  CHECK_STATUS(flashmla_tuning_save(path, 0, NULL, 1), FLASHMLA_ERROR_NULL_POINTER, "entries is NULL");
  CHECK_STATUS(flashmla_tuning_save(path, 0, &entry, -1), FLASHMLA_ERROR_VALUE,
               "count is -1; it must be in [0, 16384]");
  CHECK_STATUS(flashmla_tuning_save(path, 8, &entry, 1), FLASHMLA_ERROR_DEVICE, "device_id is 8");
  CHECK_STATUS(flashmla_tuning_save("/nowhere/at/all", 0, &entry, 1), FLASHMLA_ERROR_VALUE,
               "path is \"/nowhere/at/all\", which cannot be written: ");
  entry.operation = "attend";
  CHECK_STATUS(flashmla_tuning_save(path, 0, &entry, 1), FLASHMLA_ERROR_VALUE,
               "entries[0].operation is \"attend\", which this library does not know");
  entry = dense, entry.dtype = NULL;
  CHECK_STATUS(flashmla_tuning_save(path, 0, &entry, 1), FLASHMLA_ERROR_NULL_POINTER, "entries[0].dtype is NULL");
  entry = dense, entry.num_splits = 1025;
  CHECK_STATUS(flashmla_tuning_save(path, 0, &entry, 1), FLASHMLA_ERROR_VALUE,
               "entries[0].num_splits is 1025; it must be in [0, 1024]");
  entry = dense, entry.kv_format = -1;
  CHECK_STATUS(flashmla_tuning_save(path, 0, &entry, 1), FLASHMLA_ERROR_VALUE, "entries[0].kv_format is -1, which");
  entry = dense, entry.l2_policy = 3;
  CHECK_STATUS(flashmla_tuning_save(path, 0, &entry, 1), FLASHMLA_ERROR_VALUE, "entries[0].l2_policy is 3, which");
  entry = dense, entry.batch_to = 1;
  CHECK_STATUS(flashmla_tuning_save(path, 0, &entry, 1), FLASHMLA_ERROR_VALUE,
               "entries[0].batch_to is 1; it must be at least batch_from, 4");
  entry = dense, entry.struct_size = 7;
  CHECK_STATUS(flashmla_tuning_save(path, 0, &entry, 1), FLASHMLA_ERROR_STRUCT_SIZE, "entries[0].struct_size is 7");
  CHECK_OK(flashmla_tuning_save(path, 0, NULL, 0));
  CHECK_OK(flashmla_tuning_load(path));
  CHECK(told(0).count == 0 && told(0).path[0] != '\0');
}

/* A struct that is longer than this library knows it. */
static void newer_structs(void) {
  struct {
    flashmla_tuning_entry known;
    int64_t more;
  } entries[2] = {{dense, 0}, {dense, 0}};
  struct {
    flashmla_tuning_state known;
    int64_t more;
  } state = {FLASHMLA_TUNING_STATE_INIT, -1};
  entries[0].known.struct_size = sizeof entries[0];
  entries[1].known.batch_from = 2;
  CHECK_OK(flashmla_tuning_save(path, 0, &entries[0].known, 2));
  size_t before, after;
  char *whole = read_file(path, &before);
  /* What would be lost is refused, and the file stays. */
  char *tail[] = {(char *)&entries[0].more, (char *)&entries[1].more + sizeof entries[1].more - 1};
  for (int i = 0; i < 2; ++i) {
    char words[80];
    *tail[i] = 1;
    snprintf(words, sizeof words, "entries[%d] has byte %zu, which is not 0; this library knows %zu bytes", i,
             (size_t)(tail[i] - (char *)&entries[i]), sizeof dense);
    CHECK_STATUS(flashmla_tuning_save(path, 0, &entries[0].known, 2), FLASHMLA_ERROR_STRUCT_SIZE, words);
    *tail[i] = 0;
  }
  char *still = read_file(path, &after);
  CHECK(before == after && memcmp(whole, still, before) == 0);
  free(whole);
  free(still);
  CHECK_OK(flashmla_tuning_load(path));
  state.known.struct_size = sizeof state;
  CHECK_OK(flashmla_tuning_tell(0, &state.known));
  CHECK(state.known.count == 2 && state.more == 0 && state.known.struct_size == sizeof state);
  entries[0].more = -1;
  CHECK_OK(flashmla_tuning_at(0, &entries[0].known));
  CHECK(entries[0].known.batch_from == 2 && entries[0].more == 0);
}

int main(void) {
  make_folder();
  what_is_written_is_read();
  torn_and_changed_everywhere();
  foreign_and_garbage();
  what_is_no_file();
  what_cannot_be_written();
  newer_structs();
  remove_folder();
  return 0;
}
