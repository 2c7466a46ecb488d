/* upstream: which target takes a request, by every way of balancing; groups by configuration. */
#include "smartproxy/tls.h"
#include "upstream_groups.h"

#define DRAWS 20000

static struct model model;

static void start_group(enum config_balance balance, unsigned cnt)
{
	model_init(&model, balance, cnt);
	make_group(&model);
}

static void end_group(void)
{
	put_group(&model);
	tear_down_workers();
}

static void set_down(unsigned ix, bool is_down)
{
	atomic_store(&target_at(&model, ix)->is_down, is_down);
}

static void set_load(unsigned ix, unsigned worker, uint32_t in_use)
{
	target_at(&model, ix)->pools[worker].in_use = in_use;
}

/* ---- shares ---- */

static const struct {
	enum config_balance balance;
	unsigned weights[4]; /* 0: no such target */
	double tolerance;    /* of the share; 0: exact */
} shares[] = {
	{ CONFIG_BALANCE_ROUND_ROBIN, { 1, 1, 1 }, 0 },
	{ CONFIG_BALANCE_ROUND_ROBIN, { 5, 1, 1 }, 0 },
	{ CONFIG_BALANCE_ROUND_ROBIN, { 256, 100, 44 }, 0 },
	{ CONFIG_BALANCE_ROUND_ROBIN, { 7 }, 0 },
	{ CONFIG_BALANCE_P2C, { 1, 1, 1, 1 }, 0.02 },
	{ CONFIG_BALANCE_P2C, { 1, 3, 6 }, 0.02 },
	{ CONFIG_BALANCE_P2C, { 1, 2 }, 0.02 },
	{ CONFIG_BALANCE_LEAST_CONNECTIONS, { 1, 1, 1, 1 }, 0 },
	{ CONFIG_BALANCE_LEAST_CONNECTIONS, { 3, 1 }, 0 },
	{ CONFIG_BALANCE_HASH, { 1, 1, 1, 1 }, 0.03 },
	{ CONFIG_BALANCE_HASH, { 1, 3, 6 }, 0.03 },
	{ CONFIG_BALANCE_STICKY, { 2, 1, 1 }, 0.02 },
};

START_TEST(share)
{
	set_up_workers(1);
	unsigned cnt = 0, counts[4] = { 0 }, sum = 0;
	while (cnt < 4 && shares[_i].weights[cnt] != 0)
		sum += shares[_i].weights[cnt++];
	model_init(&model, shares[_i].balance, cnt);
	for (unsigned i = 0; i < cnt; i++)
		model.targets[i].weight = shares[_i].weights[i];
	make_group(&model);
	unsigned draws = DRAWS / sum * sum;
	for (unsigned i = 0; i < draws; i++) {
		struct upstream_choice choice = { .key_hash = upstream_hash(&i, sizeof(i)) };
		counts[choose_by(&model, 0, &choice)]++;
	}
	for (unsigned i = 0; i < cnt; i++) {
		double want = (double)shares[_i].weights[i] / sum, got = (double)counts[i] / draws;
		ck_assert_msg(got >= want - shares[_i].tolerance &&
				      got <= want + shares[_i].tolerance,
			      "target %u: %f of %f", i, got, want);
	}
	end_group();
}
END_TEST

/* The heavy one's turns are spread, and workers begin at different places. */
START_TEST(smooth)
{
	set_up_workers(2);
	model_init(&model, CONFIG_BALANCE_ROUND_ROBIN, 3);
	model.targets[0].weight = 20;
	model.targets[1].weight = model.targets[2].weight = 10;
	make_group(&model);
	unsigned first[4], last = 99;
	for (int i = 0; i < 4; i++) {
		unsigned ix = first[i] = choose(&model);
		ck_assert_uint_ne(ix, last);
		last = ix;
	}
	struct upstream_choice choice = { 0 };
	ck_assert_uint_eq(choose_by(&model, 1, &choice), first[2]);
	end_group();
}
END_TEST

/* Many targets of weights that make too long a schedule keep their shares roughly. */
START_TEST(long_schedule)
{
	set_up_workers(1);
	model_init(&model, CONFIG_BALANCE_ROUND_ROBIN, TARGETS_MAX);
	unsigned sum = 0, counts[TARGETS_MAX] = { 0 };
	for (unsigned i = 0; i < TARGETS_MAX; i++)
		sum += model.targets[i].weight = i % 2 == 0 ? 255 : 64 + i;
	make_group(&model);
	unsigned len = model.group->schedule_len;
	ck_assert_uint_le(len, 4200);
	for (unsigned i = 0; i < len; i++)
		counts[choose(&model)]++;
	for (unsigned i = 0; i < TARGETS_MAX; i++) {
		double want = (double)model.targets[i].weight / sum, got = (double)counts[i] / len;
		ck_assert_msg(got > want * 0.95 && got < want * 1.05, "target %u: %f of %f", i, got,
			      want);
	}
	end_group();
}
END_TEST

/* ---- load ---- */

/* Loads of workers 0 and 1 for each target, and how often of DRAWS the first one may be taken. */
static const struct {
	enum config_balance balance;
	unsigned weights[3], loads[3][2];
	double least, most; /* share of target 0 */
} loaded[] = {
	{ CONFIG_BALANCE_P2C, { 1, 1 }, { { 0, 1 }, { 0, 0 } }, 0, 0 },
	{ CONFIG_BALANCE_P2C, { 1, 1 }, { { 3, 4 }, { 0, 8 } }, 1, 1 },
	{ CONFIG_BALANCE_P2C, { 10, 1 }, { { 4, 4 }, { 0, 0 } }, 1, 1 },
	{ CONFIG_BALANCE_P2C, { 10, 1 }, { { 5, 6 }, { 0, 0 } }, 0, 0 },
	/* the busiest of three is never the better one of two */
	{ CONFIG_BALANCE_P2C, { 1, 1, 1 }, { { 0, 9 }, { 1, 0 }, { 1, 0 } }, 0, 0 },
	{ CONFIG_BALANCE_LEAST_CONNECTIONS, { 1, 1, 1 }, { { 1, 1 }, { 0, 3 }, { 3, 0 } }, 1, 1 },
	{ CONFIG_BALANCE_LEAST_CONNECTIONS, { 3, 1, 1 }, { { 2, 3 }, { 0, 2 }, { 2, 0 } }, 1, 1 },
	{ CONFIG_BALANCE_LEAST_CONNECTIONS, { 1, 1, 1 }, { { 1, 1 }, { 2, 0 }, { 0, 3 } }, .5, .5 },
	/* a bound of 125 % over a mean of 8 */
	{ CONFIG_BALANCE_HASH, { 1, 1, 1 }, { { 6, 6 }, { 6, 0 }, { 0, 6 } }, 0, 0 },
	{ CONFIG_BALANCE_HASH, { 1, 1, 1 }, { { 5, 4 }, { 8, 0 }, { 0, 7 } }, .3, .37 },
	{ CONFIG_BALANCE_HASH, { 4, 1, 1 }, { { 8, 8 }, { 4, 0 }, { 0, 4 } }, .6, .7 },
};

START_TEST(load)
{
	set_up_workers(2);
	unsigned cnt = loaded[_i].weights[2] == 0 ? 2 : 3, first = 0;
	model_init(&model, loaded[_i].balance, cnt);
	model.config.hash_bound_percent = 125;
	for (unsigned i = 0; i < cnt; i++)
		model.targets[i].weight = loaded[_i].weights[i];
	make_group(&model);
	for (unsigned i = 0; i < cnt; i++) {
		set_load(i, 0, loaded[_i].loads[i][0]);
		set_load(i, 1, loaded[_i].loads[i][1]);
	}
	for (unsigned i = 0; i < DRAWS; i++) {
		struct upstream_choice choice = { .key_hash = upstream_hash(&i, sizeof(i)) };
		first += choose_by(&model, 0, &choice) == 0;
	}
	double got = (double)first / DRAWS;
	ck_assert_msg(got >= loaded[_i].least && got <= loaded[_i].most, "%f", got);
	for (unsigned i = 0; i < cnt; i++) {
		set_load(i, 0, 0);
		set_load(i, 1, 0);
	}
	end_group();
}
END_TEST

/* With places held, no target gets more than its bound, whatever the keys are. */
START_TEST(bound_holds)
{
	set_up_workers(1);
	model_init(&model, CONFIG_BALANCE_HASH, 10);
	model.config.hash_bound_percent = 150;
	make_group(&model);
	static struct upstream_ticket tickets[1000];
	memset(tickets, 0, sizeof(tickets));
	for (unsigned i = 0; i < 1000; i++) {
		struct upstream_choice choice = { .key_hash = upstream_hash("hot", 3) };
		unsigned ix = choose_by(&model, 0, &choice);
		ck_assert_int_eq(upstream_enter(&workers[0], model.group, &choice, &tickets[i]),
				 STEP_DONE);
		uint32_t in_use = target_at(&model, ix)->pools[0].in_use;
		ck_assert_uint_le(in_use, ((i + 1) * 150 + 999) / 1000);
	}
	for (unsigned i = 0; i < 1000; i++)
		upstream_leave(&tickets[i]);
	end_group();
}
END_TEST

/* ---- Maglev ---- */

START_TEST(maglev_balance)
{
	set_up_workers(1);
	start_group(CONFIG_BALANCE_HASH, 10);
	unsigned counts[10] = { 0 }, len = model.group->maglev_len;
	for (unsigned i = 0; i < len; i++)
		counts[model.group->maglev[i]]++;
	for (unsigned i = 0; i < 10; i++)
		ck_assert_msg(counts[i] * 10 > len * 0.95 && counts[i] * 10 < len * 1.05, "%u: %u",
			      i, counts[i]);
	end_group();
}
END_TEST

static unsigned choose_key(struct model *m, unsigned key)
{
	struct upstream_choice choice = { .key_hash = upstream_hash(&key, sizeof(key)) };
	return choose_by(m, 0, &choice);
}

/* One of ten goes: by configuration, some others' keys may move; merely down, none does. */
START_TEST(maglev_disruption)
{
	static struct model fewer;
	set_up_workers(1);
	start_group(CONFIG_BALANCE_HASH, 10);
	model_init(&fewer, CONFIG_BALANCE_HASH, 9);
	for (unsigned i = 4; i < 9; i++)
		fewer.targets[i].port++; /* the fifth is missing */
	make_group(&fewer);
	unsigned moved = 0, others = 0, to[10] = { 0 }, taken_over = 0;
	for (unsigned key = 0; key < DRAWS; key++) {
		set_down(4, false);
		unsigned before = choose_key(&model, key);
		set_down(4, true);
		unsigned without = choose_key(&model, key);
		unsigned after = choose_key(&fewer, key);
		if (before == 4) {
			ck_assert_uint_ne(without, 4);
			to[without]++;
			taken_over++;
			continue;
		}
		ck_assert_uint_eq(without, before);
		others++;
		moved += target_at(&fewer, after) != target_at(&model, before);
	}
	ck_assert_msg(moved * 100 < others * 15, "%u of %u moved", moved, others);
	for (unsigned i = 0; i < 10; i++) /* its share goes to all of them alike */
		ck_assert_msg(i == 4 || (to[i] * 9 > taken_over / 2 && to[i] * 9 < taken_over * 2),
			      "%u: %u of %u", i, to[i], taken_over);
	put_group(&fewer);
	end_group();
}
END_TEST

/* The hash is part of what nodes and restarts must agree on. */
START_TEST(hash_is_fixed)
{
	ck_assert_uint_eq(upstream_hash("", 0), upstream_hash("x", 0));
	ck_assert_uint_ne(upstream_hash("a", 1), upstream_hash("a\0", 2));
	ck_assert_uint_eq(upstream_hash("192.0.2.1", 9), UINT64_C(10537745605983271098));
	ck_assert_uint_eq(upstream_hash("/index.html", 11), UINT64_C(13702409367205039716));
}
END_TEST

/* ---- sticky ---- */

static void choose_sticky(const char *cookie, size_t len, struct upstream_choice *choice)
{
	*choice = (struct upstream_choice){ .cookie = cookie, .cookie_len = (uint32_t)len };
	(void)choose_by(&model, 0, choice);
}

START_TEST(sticky)
{
	set_up_workers(1);
	start_group(CONFIG_BALANCE_STICKY, 20);
	struct upstream_choice choice;
	for (int i = 0; i < 200; i++) {
		char cookie[UPSTREAM_COOKIE_LEN];
		choose_sticky(NULL, 0, &choice);
		ck_assert(choice.wants_cookie);
		unsigned ix = choice.target_ix;
		upstream_cookie(model.group, &choice, cookie);
		choose_sticky(cookie, sizeof(cookie), &choice);
		ck_assert(!choice.wants_cookie);
		ck_assert_uint_eq(choice.target_ix, ix);
		/* Not usable now: another one, and its cookie. */
		set_down(ix, true);
		choose_sticky(cookie, sizeof(cookie), &choice);
		ck_assert(choice.wants_cookie);
		ck_assert_uint_ne(choice.target_ix, ix);
		set_down(ix, false);
		/* It failed this very request. */
		choice = (struct upstream_choice){ .cookie = cookie,
						   .cookie_len = sizeof(cookie),
						   .tried = { (uint16_t)ix },
						   .tried_cnt = 1 };
		ck_assert_uint_ne(choose_by(&model, 0, &choice), ix);
		ck_assert(choice.wants_cookie);
	}
	end_group();
}
END_TEST

/* What is no value of ours is as good as none. */
static const char *const odd_cookies[] = {
	"",
	"0",
	"0123456789abcdef",
	"0123456789ABCDEF",
	"0123456789abcdefg",
	"0123456789abcde",
	"zzzzzzzzzzzzzzzz",
	"                ",
};

START_TEST(odd_cookie)
{
	set_up_workers(1);
	start_group(CONFIG_BALANCE_STICKY, 3);
	struct upstream_choice choice;
	choose_sticky(odd_cookies[_i], strlen(odd_cookies[_i]), &choice);
	ck_assert(choice.wants_cookie);
	end_group();
}
END_TEST

/* A cookie of a backup holds while backups are used. */
START_TEST(sticky_backup)
{
	set_up_workers(1);
	model_init(&model, CONFIG_BALANCE_STICKY, 4);
	model.targets[2].is_backup = model.targets[3].is_backup = true;
	make_group(&model);
	set_down(0, true);
	set_down(1, true);
	char cookie[UPSTREAM_COOKIE_LEN];
	struct upstream_choice choice;
	choose_sticky(NULL, 0, &choice);
	unsigned ix = choice.target_ix;
	ck_assert_uint_ge(ix, 2);
	upstream_cookie(model.group, &choice, cookie);
	for (int i = 0; i < 20; i++) {
		choose_sticky(cookie, sizeof(cookie), &choice);
		ck_assert_uint_eq(choice.target_ix, ix);
		ck_assert(!choice.wants_cookie);
	}
	set_down(1, false);
	choose_sticky(cookie, sizeof(cookie), &choice);
	ck_assert_uint_eq(choice.target_ix, 1);
	ck_assert(choice.wants_cookie);
	end_group();
}
END_TEST

/* ---- groups ---- */

START_TEST(one_group)
{
	set_up_workers(1);
	start_group(CONFIG_BALANCE_P2C, 1);
	struct upstream_group *again = NULL, *other = NULL, *plain = model.group;
	static const struct config_upstream_tls tls = { .wants_verify = false };
	static const struct config_upstream_tls same_tls = { .wants_verify = false };
	struct model copy = model;
	copy.config.targets = copy.targets;
	sp_role_assume_control();
	ck_assert_int_eq(tls_init(), ERR_OK);
	ck_assert_int_eq(upstream_group_get(upstreams, &model.config, NULL, &again, NULL), ERR_OK);
	ck_assert_ptr_eq(again, plain);
	upstream_group_put(upstreams, again);
	/* Over TLS it is another one, with other targets. */
	ck_assert_int_eq(upstream_group_get(upstreams, &model.config, &tls, &other, NULL), ERR_OK);
	ck_assert_int_eq(upstream_group_get(upstreams, &model.config, &same_tls, &again, NULL),
			 ERR_OK);
	ck_assert(other == again && other != plain &&
		  other->targets[0].upstream != plain->targets[0].upstream);
	upstream_group_put(upstreams, other);
	upstream_group_put(upstreams, again);
	/* The next configuration's has the same targets. */
	make_group(&copy);
	ck_assert_ptr_ne(copy.group, plain);
	ck_assert_ptr_eq(target_at(&copy, 0), target_at(&model, 0));
	ck_assert_str_eq(upstream_group_name(copy.group), "app");
	ck_assert_ptr_eq(upstream_group_config(copy.group), &copy.config);
	put_group(&copy);
	end_group();
	tls_fini();
}
END_TEST

/* One target cannot be had: nothing is left of the others. */
START_TEST(group_fails)
{
	set_up_workers(1);
	start_group(CONFIG_BALANCE_P2C, 1);
	static const struct config_upstream_tls tls = { .wants_verify = true,
							.ca_file = "/nonexistent/ca.pem" };
	struct upstream_group *group = NULL;
	struct text why = { 0 };
	sp_role_assume_control();
	ck_assert_int_eq(tls_init(), ERR_OK);
	ck_assert_int_ne(upstream_group_get(upstreams, &model.config, &tls, &group, &why), ERR_OK);
	ck_assert_ptr_null(group);
	ck_assert_ptr_nonnull(why.data);
	ck_assert_msg(strstr(why.data, "/nonexistent/ca.pem") != NULL, "%s", why.data);
	text_fini(&why);
	ck_assert_uint_eq(target_at(&model, 0)->ref_cnt, 1);
	end_group();
	tls_fini();
}
END_TEST

/* ---- who is left ---- */

/* Per target: u(p), d(own), e(jected), t(ried), n(o address); in capitals: a backup. */
static const struct {
	const char *targets;
	const char
		*may; /* indexes that are taken, all of them within DRAWS / 100; "": none is left */
} lefts[] = {
	{ "u", "0" },
	{ "d", "" },
	{ "t", "" },
	{ "n", "" },
	{ "e", "0" },
	{ "uuu", "012" },
	{ "udu", "02" },
	{ "eut", "1" },
	{ "nuet", "1" },
	{ "uU", "0" },
	{ "dU", "1" },
	{ "eU", "1" },
	{ "tU", "1" },
	{ "eD", "0" },
	{ "edD", "0" },
	{ "eeD", "01" },
	{ "dE", "1" },
	{ "eE", "0" },
	{ "ddUU", "23" },
	{ "ddTU", "3" },
	{ "ddDD", "" },
	{ "tte", "2" },
	{ "UU", "01" },
	{ "uuuuuuuuuuuuuuuuuuuu", "0123456789" },
	{ "dddddddddddddddddddu", "\x43" }, /* index 19 */
};

static void make_as(struct model *m, const char *targets, struct upstream_choice *choice)
{
	int64_t now_ms = loop_now_ms(worker_loops[0]);
	for (unsigned i = 0; targets[i] != '\0'; i++) {
		struct upstream *u = target_at(m, i);
		switch (targets[i] | 0x20) {
		case 'd':
			atomic_store(&u->is_down, 1);
			break;
		case 'e':
			atomic_store(&u->ejected_until_ms, now_ms + 100000);
			break;
		case 't':
			choice->tried[choice->tried_cnt++] = (uint16_t)i;
			break;
		case 'n':
			free(sp_rcu_swap(&u->addrs, NULL));
			break;
		default:
			break;
		}
	}
}

static void check_left(const char *targets, const char *may, enum config_balance balance)
{
	unsigned cnt = (unsigned)strlen(targets);
	uint64_t seen = 0, want = 0;
	model_init(&model, balance, cnt);
	for (unsigned i = 0; i < cnt; i++)
		model.targets[i].is_backup = targets[i] < 'a';
	make_group(&model);
	struct upstream_choice all = { 0 };
	make_as(&model, targets, &all);
	for (unsigned i = 0; may[i] != '\0'; i++)
		want |= UINT64_C(1) << (may[i] - '0');
	for (unsigned i = 0; i < DRAWS / 100; i++) {
		struct upstream_choice choice = all;
		choice.key_hash = upstream_hash(&i, sizeof(i));
		enum err e = upstream_choose(&workers[0], model.group, &choice);
		ck_assert_int_eq(e, want == 0 ? ERR_NOENT : ERR_OK);
		if (e != ERR_OK)
			continue;
		ck_assert_uint_eq(choice.tried_cnt, all.tried_cnt + 1);
		ck_assert_uint_eq(choice.tried[all.tried_cnt], choice.target_ix);
		seen |= UINT64_C(1) << choice.target_ix;
	}
	if (cnt == 20 && want != UINT64_C(1) << 19)
		seen &= want; /* of the many, some */
	ck_assert_msg(seen == want, "%s, balance %d: %llx instead of %llx", targets, (int)balance,
		      (unsigned long long)seen, (unsigned long long)want);
	for (unsigned i = 0; i < cnt; i++) {
		atomic_store(&target_at(&model, i)->is_down, 0);
		atomic_store(&target_at(&model, i)->ejected_until_ms, 0);
	}
	put_group(&model);
	run_ms(worker_loops[0], 1);
	run_ms(control_loop, 1);
}

START_TEST(left)
{
	set_up_workers(1);
	for (int balance = CONFIG_BALANCE_P2C; balance <= CONFIG_BALANCE_STICKY; balance++)
		check_left(lefts[_i].targets, lefts[_i].may, (enum config_balance)balance);
	tear_down_workers();
}
END_TEST

/* A request goes through all targets once and no further. */
START_TEST(tried_all)
{
	set_up_workers(1);
	for (int balance = CONFIG_BALANCE_P2C; balance <= CONFIG_BALANCE_STICKY; balance++) {
		start_group((enum config_balance)balance, 10);
		struct upstream_choice choice = { .key_hash = 99 };
		unsigned seen = 0;
		for (int i = 0; i < UPSTREAM_TRIES_MAX; i++)
			seen |= 1u << choose_by(&model, 0, &choice);
		ck_assert_int_eq(__builtin_popcount(seen), UPSTREAM_TRIES_MAX);
		ck_assert_int_eq(upstream_choose(&workers[0], model.group, &choice), ERR_NOENT);
		put_group(&model);
	}
	tear_down_workers();
}
END_TEST

/* A name of several addresses: every choice begins at the next one. */
START_TEST(addresses_in_turn)
{
	set_up_workers(1);
	start_group(CONFIG_BALANCE_P2C, 1);
	struct upstream *u = target_at(&model, 0);
	struct upstream_addrs *addrs = calloc(1, sizeof(*addrs));
	static const char *const ips[] = { "127.0.0.1", "::1", "127.0.0.2" };
	addrs->cnt = 3;
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(addr_parse(ips[i], 0, &addrs->list[i]), ERR_OK);
	free(sp_rcu_swap(&u->addrs, addrs));
	unsigned counts[3] = { 0 };
	for (int i = 0; i < 30; i++) {
		struct upstream_choice choice = { 0 };
		(void)choose_by(&model, 0, &choice);
		counts[choice.addr_ix % 3]++;
	}
	ck_assert(counts[0] == 10 && counts[1] == 10 && counts[2] == 10);
	end_group();
}
END_TEST

/* ---- slow start ---- */

static const struct {
	enum config_balance balance;
	int64_t age_ms; /* of 1000 */
	double least, most;
} slow[] = {
	/* 10 of 110, 55 of 155; by keys and at random: 10 %, 55 % of a half */
	{ CONFIG_BALANCE_ROUND_ROBIN, 0, .08, .1 },   { CONFIG_BALANCE_ROUND_ROBIN, 500, .3, .4 },
	{ CONFIG_BALANCE_ROUND_ROBIN, 1000, .5, .5 }, { CONFIG_BALANCE_HASH, 0, .03, .08 },
	{ CONFIG_BALANCE_HASH, 500, .25, .32 },       { CONFIG_BALANCE_HASH, 1000, .47, .53 },
	{ CONFIG_BALANCE_P2C, 0, .03, .08 },          { CONFIG_BALANCE_P2C, 1000, .47, .53 },
};

START_TEST(slow_start)
{
	set_up_workers(1);
	model_init(&model, slow[_i].balance, 2);
	model.config.slow_start_ms = 1000;
	make_group(&model);
	run_ms(worker_loops[0], 1);
	/* Some milliseconds that the loop itself does not see pass. */
	atomic_store(&target_at(&model, 0)->up_since_ms,
		     loop_now_ms(worker_loops[0]) - slow[_i].age_ms);
	unsigned first = 0;
	for (unsigned i = 0; i < DRAWS; i++) {
		struct upstream_choice choice = { .key_hash = upstream_hash(&i, sizeof(i)) };
		first += choose_by(&model, 0, &choice) == 0;
	}
	double got = (double)first / DRAWS;
	ck_assert_msg(got >= slow[_i].least && got <= slow[_i].most, "%f", got);
	end_group();
}
END_TEST

/* Under load, the loads go by the weight that has grown so far. */
START_TEST(slow_start_load)
{
	set_up_workers(1);
	model_init(&model, CONFIG_BALANCE_LEAST_CONNECTIONS, 2);
	model.config.slow_start_ms = 1000;
	make_group(&model);
	atomic_store(&target_at(&model, 0)->up_since_ms, loop_now_ms(worker_loops[0]));
	static struct upstream_ticket tickets[110];
	memset(tickets, 0, sizeof(tickets));
	for (int i = 0; i < 110; i++) {
		struct upstream_choice choice = { 0 };
		(void)choose_by(&model, 0, &choice);
		ck_assert_int_eq(upstream_enter(&workers[0], model.group, &choice, &tickets[i]),
				 STEP_DONE);
	}
	uint32_t in_use = target_at(&model, 0)->pools[0].in_use;
	ck_assert_msg(in_use >= 9 && in_use <= 12, "%u", in_use);
	/* The only one there is takes everything. */
	set_down(1, true);
	ck_assert_uint_eq(choose(&model), 0);
	for (int i = 0; i < 110; i++)
		upstream_leave(&tickets[i]);
	end_group();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("upstream_balance");
	TCase *tc = tcase_create("balance");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, share, 0, SP_ARRAY_LEN(shares));
	tcase_add_test(tc, smooth);
	tcase_add_test(tc, long_schedule);
	tcase_add_loop_test(tc, load, 0, SP_ARRAY_LEN(loaded));
	tcase_add_test(tc, bound_holds);
	tcase_add_test(tc, maglev_balance);
	tcase_add_test(tc, maglev_disruption);
	tcase_add_test(tc, hash_is_fixed);
	tcase_add_test(tc, sticky);
	tcase_add_loop_test(tc, odd_cookie, 0, SP_ARRAY_LEN(odd_cookies));
	tcase_add_test(tc, sticky_backup);
	tcase_add_test(tc, one_group);
	tcase_add_test(tc, group_fails);
	tcase_add_loop_test(tc, left, 0, SP_ARRAY_LEN(lefts));
	tcase_add_test(tc, tried_all);
	tcase_add_test(tc, addresses_in_turn);
	tcase_add_loop_test(tc, slow_start, 0, SP_ARRAY_LEN(slow));
	tcase_add_test(tc, slow_start_load);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
