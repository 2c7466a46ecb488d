#pragma once
/* config, private: what a string must look like. A rule takes a NUL-terminated copy that it may
 * normalise in place (never longer) and returns NULL, or what was expected, as the end of the
 * sentence 'found the string "x", expected ...'. */
const char *rule_text(char *text); /* UTF-8 without control characters */
const char *rule_body(char *text); /* UTF-8 */
const char *rule_file(char *text);
const char *rule_socket_path(char *text);
const char *rule_user(char *text);
const char *rule_email(char *text);
const char *rule_https_url(char *text);
const char *rule_ciphers(char *text);
const char *rule_name(char *text);
const char *rule_ip(char *text);
const char *rule_cidr(char *text);
const char *rule_host(char *text);
const char *rule_domain(char *text);
const char *rule_path(char *text);
const char *rule_method(char *text);
const char *rule_match_field_name(char *text); /* lower case afterwards */
const char *rule_reply_field_name(char *text);
const char *rule_field_value(char *text);
const char *rule_location(char *text);
const char *rule_check_path(char *text);
const char *rule_cookie_name(char *text);
const char *rule_alpn(char *text);
const char *rule_server(char *text); /* "address", "address:port", "[v6]:port" */
