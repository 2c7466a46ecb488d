#include "run.h"
#include "wire/uri.h"

#define TEXT(literal) (literal), sizeof(literal) - 1
#define LABEL_63      "a23456789012345678901234567890123456789012345678901234567890123"
#define LABELS_252                             \
	LABEL_63 "." LABEL_63 "." LABEL_63 "." \
		 "a2345678901234567890123456789012345678901234567890123456789x"

static const struct {
	const char *host;
	size_t len;
	const char *want; /* NULL: refused */
	uint16_t port;
} hosts[] = {
	{ TEXT("a"), "a", 0 },
	{ TEXT("WWW.Example.COM"), "www.example.com", 0 },
	{ TEXT("example.com."), "example.com", 0 },
	{ TEXT("example.com.:8080"), "example.com", 8080 },
	{ TEXT("a_b-c.d"), "a_b-c.d", 0 },
	{ TEXT("192.0.2.1:65535"), "192.0.2.1", 65535 },
	{ TEXT("a:1"), "a", 1 },
	{ TEXT("a:00080"), "a", 80 },
	{ TEXT("[::1]"), "::1", 0 },
	{ TEXT("[2001:DB8:0:0::1]:443"), "2001:db8::1", 443 },
	{ TEXT("[::ffff:192.0.2.1]"), "::ffff:192.0.2.1", 0 },
	{ TEXT(LABEL_63), LABEL_63, 0 },
	{ TEXT(LABELS_252), LABELS_252, 0 },
	{ TEXT(LABELS_252 ".x"), LABELS_252 ".x", 0 },
	{ TEXT(LABELS_252 ".xy"), NULL, 0 },
	{ TEXT(""), NULL, 0 },
	{ TEXT("."), NULL, 0 },
	{ TEXT(".."), NULL, 0 },
	{ TEXT("a..b"), NULL, 0 },
	{ TEXT(".a"), NULL, 0 },
	{ TEXT("a.."), NULL, 0 },
	{ TEXT(LABEL_63 "x"), NULL, 0 },
	{ TEXT("a:"), NULL, 0 },
	{ TEXT(":80"), NULL, 0 },
	{ TEXT("a:0"), NULL, 0 },
	{ TEXT("a:65536"), NULL, 0 },
	{ TEXT("a:000080"), NULL, 0 },
	{ TEXT("a:+80"), NULL, 0 },
	{ TEXT("a:8 "), NULL, 0 },
	{ TEXT("a:80:80"), NULL, 0 },
	{ TEXT("u@a"), NULL, 0 },
	{ TEXT("a/b"), NULL, 0 },
	{ TEXT("a b"), NULL, 0 },
	{ TEXT("a,b"), NULL, 0 },
	{ TEXT("a%41"), NULL, 0 },
	{ TEXT("a\0b"), NULL, 0 },
	{ TEXT("\xc3\xa9"), NULL, 0 },
	{ TEXT("::1"), NULL, 0 },
	{ TEXT("["), NULL, 0 },
	{ TEXT("[]"), NULL, 0 },
	{ TEXT("[::1"), NULL, 0 },
	{ TEXT("[::1]x"), NULL, 0 },
	{ TEXT("[::1]:"), NULL, 0 },
	{ TEXT("[::g]"), NULL, 0 },
	{ TEXT("[1.2.3.4]"), NULL, 0 },
	{ TEXT("[fe80::1%25eth0]"), NULL, 0 },
	{ TEXT("[::1\0]"), NULL, 0 },
	{ TEXT("[v1.x]"), NULL, 0 },
	{ TEXT("[0000:0000:0000:0000:0000:0000:0000:0000:0000:0001]"), NULL, 0 },
};

START_TEST(host_normalise)
{
	char dst[WIRE_HOST_MAX];
	size_t len = 0;
	uint16_t port = 1;
	char *host = copy_exactly(hosts[_i].host, hosts[_i].len);
	bool is_good = wire_host_normalise(host, hosts[_i].len, dst, &len, &port);
	free(host);
	ck_assert_msg(is_good == (hosts[_i].want != NULL), "%s", hosts[_i].host);
	if (!is_good)
		return;
	ck_assert_uint_eq(len, strlen(hosts[_i].want));
	ck_assert_mem_eq(dst, hosts[_i].want, len);
	ck_assert_uint_eq(port, hosts[_i].port);
}
END_TEST

static const struct {
	const char *path;
	size_t len;
	const char *want; /* NULL: refused */
} paths[] = {
	{ TEXT("/"), "/" },
	{ TEXT("/a/b"), "/a/b" },
	{ TEXT("/a/b/"), "/a/b/" },
	{ TEXT("/%41%7e%2D%5f%2E"), "/A~-_." },
	{ TEXT("/a%2fb%3a"), "/a%2Fb%3A" },
	{ TEXT("/%e9%C3"), "/%E9%C3" },
	{ TEXT("/%25%34%31"), "/%2541" },
	{ TEXT("//a///b//"), "/a/b/" },
	{ TEXT("/./a/./b/."), "/a/b/" },
	{ TEXT("/a/../b"), "/b" },
	{ TEXT("/a/b/.."), "/a/" },
	{ TEXT("/a/b/../"), "/a/" },
	{ TEXT("/a/.."), "/" },
	{ TEXT("/a//../b"), "/b" },
	{ TEXT("/a/%2e%2E/b"), "/b" },
	{ TEXT("/a/%2e/b"), "/a/b" },
	{ TEXT("/a/.b/..c/..."), "/a/.b/..c/..." },
	{ TEXT("/a;x=1/b"), "/a;x=1/b" },
	{ TEXT("/group%2Fproject/x"), "/group%2Fproject/x" },
	{ TEXT("/a%5cb%2f"), "/a%5Cb%2F" },
	{ TEXT("/a\\b"), "/a\\b" },
	{ TEXT("/a%2f.b/..%5cx.%2f...%2f"), NULL },
	{ TEXT("/a%2f.b/..c%5cx.%2f...%2fd.."), "/a%2F.b/..c%5Cx.%2F...%2Fd.." },
	{ TEXT("/a%2fb/./../x"), NULL }, /* more than one segment would have to be taken back */
	{ TEXT("/x/a%5cb/../../pub"), NULL },
	{ TEXT("/x/a\\/%2e%2E/pub"), NULL },
	{ TEXT("/%2f/../%2f"), NULL },
	{ TEXT("/a%2fb/x/../y"), "/a%2Fb/y" },
	{ TEXT("/a%252f/../%2f"), "/%2F" },
	{ TEXT("/a%252f../b"), "/a%252f../b" },
	{ TEXT("/a%25%32%66../b"), "/a%252f../b" }, /* decoded once */
	{ TEXT("/a/..%2fadmin/x"), NULL },
	{ TEXT("/a/..%2Fadmin/x"), NULL },
	{ TEXT("/a/..%5cadmin"), NULL },
	{ TEXT("/a/..%5Cadmin"), NULL },
	{ TEXT("/a/..\\admin"), NULL },
	{ TEXT("/a/%2e%2E%2fadmin"), NULL },
	{ TEXT("/a/.%2e\\admin"), NULL },
	{ TEXT("/a%2f../admin"), NULL },
	{ TEXT("/a\\../admin"), NULL },
	{ TEXT("/a%2f%2e./admin"), NULL },
	{ TEXT("/a%2f..%5cadmin"), NULL },
	{ TEXT("/a%5c.."), NULL },
	{ TEXT("/a%2f."), NULL },
	{ TEXT("/.%2fadmin"), NULL },
	{ TEXT("/%2f%2e%5cadmin"), NULL },
	{ TEXT("/\\..\\..\\x"), NULL },
	{ TEXT("/b/../a%2f../x"), NULL },
	{ TEXT("/x%2f../../admin"), NULL }, /* also in a segment that is taken back */
	{ TEXT("/.."), NULL },
	{ TEXT("/../a"), NULL },
	{ TEXT("/a/../.."), NULL },
	{ TEXT("/a/../../a"), NULL },
	{ TEXT("/%2e%2e"), NULL },
	{ TEXT("//.."), NULL },
	{ TEXT("/%"), NULL },
	{ TEXT("/%4"), NULL },
	{ TEXT("/%4g"), NULL },
	{ TEXT("/%g4"), NULL },
	{ TEXT("/%00"), NULL },
	{ TEXT("/\0"), NULL },
	{ TEXT("/a b"), NULL },
	{ TEXT("/\x7f"), NULL },
	{ TEXT("a"), NULL },
	{ TEXT("*"), NULL },
	{ TEXT(""), NULL },
};

START_TEST(path_normalise)
{
	char *path = copy_exactly(paths[_i].path, paths[_i].len);
	char *dst = malloc(paths[_i].len + 1);
	ck_assert_ptr_nonnull(dst);
	size_t len = 0;
	bool is_good = wire_path_normalise(path, paths[_i].len, dst, &len);
	ck_assert_msg(is_good == (paths[_i].want != NULL), "%s", paths[_i].path);
	if (is_good) {
		dst[len] = '\0';
		ck_assert_str_eq(dst, paths[_i].want);
	}
	free(path);
	free(dst);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("uri");
	TCase *tc = tcase_create("rows");
	tcase_add_loop_test(tc, host_normalise, 0, ROW_CNT(hosts));
	tcase_add_loop_test(tc, path_normalise, 0, ROW_CNT(paths));
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
