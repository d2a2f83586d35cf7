/* fake_backend.c - see fake_backend.h. */
#include "fake_backend.h"

#include "attention/cpu_run.h"
#include "check.h"
#include "observer/cuda_times.h"

fake_backend fake = {.driver = 12040,
                     .limits = {.block_rows = 64,
                                .max_cluster = 2,
                                .workers = 132,
                                .start_overhead = 3,
                                .split_overhead = 2,
                                .unit = 64,
                                .piece_units = 16,
                                .carries = 2,
                                .max_slots = 1 << 20,
                                .partial_bytes = 4,
                                .partial_facts = 1}};

int fake_launches(void) {
  const int launches = fake.cuda_launches + fake.cpu_launches;
  fake.cuda_launches = fake.cpu_launches = 0;
  fake.cuda_plans = fake.cuda_decodes = fake.cpu_plans = fake.cpu_decodes = 0;
  return launches;
}

/* What a backend's prepare leaves in the state must be there in every launch. */
static const CUkernel loaded = (CUkernel)(uintptr_t)0x10ade4;

flashmla_status fake_prepare(const fm_call *call, CUkernel *handle) {
  CHECK(call->cuda && !call->again && !call->empty);
  ++fake.prepares;
  if (fake.answer != FLASHMLA_OK) return fm_fail(fake.answer, "the fake refuses");
  *handle = loaded;
  return FLASHMLA_OK;
}

flashmla_status fake_launched(const fm_call *call, CUkernel handle, int *count, const char *kernel) {
  CHECK(handle == (call->cuda ? loaded : NULL));
  ++*(call->cuda ? &fake.cuda_launches : &fake.cpu_launches);
  if (count != NULL) ++*count;
  fake.again = call->again;
  fm_set_last_kernel(kernel);
  return FLASHMLA_OK;
}

bool fm_multiplies_codes(const fm_call *call, const fm_dense_decode *decode) {
  (void)call, (void)decode;
  return false;
}

flashmla_status fm_dense_decode_cuda_limits(const fm_call *call, const fm_dense_decode *decode, fm_limits *limits) {
  (void)decode;
  if (call->device_id > 7) return fm_fail(FLASHMLA_ERROR_NO_DRIVER, "no device %d", call->device_id);
  *limits = fake.limits;
  return FLASHMLA_OK;
}

void fm_cpu_limits(const fm_work *work, fm_limits *limits) {
  (void)work;
  *limits = fake.limits;
}

static flashmla_status prepare_decode(fm_call *call, void *state) {
  return fake_prepare(call, &((fm_dense_decode *)state)->kernels.attend.handle);
}

static flashmla_status nothing(fm_call *call, void *state) {
  (void)call;
  (void)state;
  return FLASHMLA_OK;
}

/* What another thread may write is taken, and checked, before the CPU computes. */
static flashmla_status decode(fm_call *call, void *state) {
  fake.decode = *(const fm_dense_decode *)state;
  if (!call->cuda) FM_TRY(fm_with_values_taken(call, &((fm_dense_decode *)state)->attention, nothing, state));
  return call->cuda ? fake_launched(call, fake.decode.kernels.attend.handle, &fake.cuda_decodes, "fake_cuda")
                    : fake_launched(call, fake.decode.kernels.attend.handle, &fake.cpu_decodes, "fake_cpu");
}

static flashmla_status prepare_plan(fm_call *call, void *state) {
  return fake_prepare(call, &((fm_dense_decode *)state)->kernels.plan.handle);
}

/* A schedule that is in host memory is read by the core. */
static flashmla_status plan(fm_call *call, void *state) {
  fake.plan = *(const fm_dense_decode *)state;
  const fm_attention *attention = &fake.plan.attention;
  if (call->cuda) return fake_launched(call, fake.plan.kernels.plan.handle, &fake.cuda_plans, "fake_plan");
  fm_schedule_on_host(&attention->work, &attention->tiling, attention->schedule);
  return fake_launched(call, fake.plan.kernels.plan.handle, &fake.cpu_plans, "");
}

const fm_backend fm_dense_decode_cuda = {prepare_decode, decode}, fm_dense_decode_cpu = {.launch = decode};
const fm_backend fm_plan_decode_cuda = {prepare_plan, plan}, fm_plan_decode_cpu = {.launch = plan};

const char *fm_cuda_kernels_digest(void) { return "0123456789abcdef"; }

int32_t fm_cuda_kernel_count(void) { return 2; }

void fm_cuda_kernel_at(int32_t index, flashmla_kernel_info *info) {
  *info = (flashmla_kernel_info){.name = index == 0 ? "fake_plan" : "fake_cuda", .target = "sm_90a"};
}

/* Devices 0 to 7 are alike. */
flashmla_status fm_tuning_machine_of(const char *argument, int32_t device_id, fm_tuning_machine *machine) {
  if (device_id < 0 || device_id > 7) return fm_fail(FLASHMLA_ERROR_DEVICE, "%s is %d", argument, device_id);
  memset(machine, 0, sizeof *machine);
  snprintf(machine->gpu, sizeof machine->gpu, "Fake GPU");
  machine->arch = 90;
  machine->processors = 132;
  machine->driver = fake.driver;
  return FLASHMLA_OK;
}

bool fm_tuning_fits(const fm_tuning *table, int32_t device_id) {
  fm_tuning_machine here;
  return fm_tuning_machine_of("device_id", device_id, &here) == FLASHMLA_OK &&
         memcmp(&here, &table->machine, sizeof here) == 0;
}

void fm_describe_tuning_machine(const fm_tuning_machine *machine, char *text, size_t size) {
  snprintf(text, size, "%s with driver %d", machine->gpu, machine->driver);
}

flashmla_status flashmla_driver_version(int32_t *version) {
  *version = 12040;
  return FLASHMLA_OK;
}

flashmla_status flashmla_stream_synchronize(int32_t device_id, void *stream) {
  return stream == NULL ? FLASHMLA_OK : fm_fail(FLASHMLA_ERROR_DRIVER, "device %d has no such stream", device_id);
}

const char *flashmla_cpu_isa(void) { return "fake"; }

/* No device has times. */
void fm_time_launches(fm_observation *seen, const fm_call *call, const void *state) {
  (void)call;
  (void)state;
  seen->device_time = FLASHMLA_TIME_FAILED;
}
void fm_launches_timed(fm_observation *seen) { (void)seen; }
void fm_end_times(const fm_observation *seen, bool recorded, uint64_t number) {
  (void)seen;
  (void)recorded;
  (void)number;
}
void fm_find_times(void) {}
